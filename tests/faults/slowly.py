"""The command line with slow changes of files, to be interrupted by tests.

python slowly.py OPERATIONS SECONDS ARGUMENTS...: each of these operations (`pwrite,rename`) waits.
"""

import sys
import time

from bonsai_quant.cli.main import main
from bonsai_quant.storage import fs

operations, seconds, arguments = sys.argv[1].split(","), float(sys.argv[2]), sys.argv[3:]


def slowly(operation, call, *args, **kwargs):
    if operation in operations:
        print(operation, file=sys.__stdout__, flush=True)
        time.sleep(seconds)
    return call(*args, **kwargs)


fs.change = slowly
main(arguments)
