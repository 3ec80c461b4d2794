"""The command line with a training that a signal stops, for tests in a process of their own.

python stopping.py UPDATE SIGNALS ARGUMENTS...: these signals (`SIGINT,SIGTERM`) come in an update.
"""

import os
import signal
import sys

from bonsai_quant.cli.main import main
from bonsai_quant.training.distill.trainer import Trainer

at, signals, arguments = int(sys.argv[1]), sys.argv[2].split(","), sys.argv[3:]
update = Trainer.update


def stopped_in_the_middle(self):
    if self.step + 1 == at:
        for name in signals:
            os.kill(os.getpid(), signal.Signals[name])
    return update(self)


Trainer.update = stopped_in_the_middle
main(arguments)
