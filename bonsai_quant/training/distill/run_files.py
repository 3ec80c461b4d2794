"""What a run leaves on disk while it goes on: what it is, its curves, and its last state."""

from __future__ import annotations

import json
import logging
from typing import Any

from bonsai_quant.core.errors import OutputExists
from bonsai_quant.storage import fs
from bonsai_quant.storage.staging import Staging
from bonsai_quant.training import checkpoint

from .curves import Curve, plot
from .distributed import ProcessGroup
from .trainer import Trainer

CURVES = ("curve.csv", "held_out.csv", "curve.png")
"""Files of the output, too."""
PURPOSE, STATE = "purpose.json", "state"

log = logging.getLogger(__name__)


class RunFiles:
    """The files of a run in its staging folder, written by the first process.

    curve: loss by step.  held_out: results of the validations.
    """

    def __init__(self, staging: Staging, processes: ProcessGroup) -> None:
        self.staging, self.processes = staging, processes
        self.curve, self.held_out = Curve(), Curve()

    def bind(self, purpose: dict[str, Any], *, resume: bool) -> None:
        """Refuse to resume a run with another purpose than it had."""
        text = json.dumps(purpose, sort_keys=True).encode()
        path = self.staging.path / PURPOSE
        if resume and path.exists() and fs.read_small(path) != text:
            raise OutputExists(
                "the interrupted run had another source, recipe, seed, prompts or version",
                where=str(self.staging.target),
                hint="run without --resume to start again",
            )
        if resume and not path.exists():
            target = self.staging.target
            log.warning("%s: nothing there to resume; starting from the beginning", target)
            self.staging.start_again()
        self.staging.write_file(PURPOSE, text)

    def draw(self) -> None:
        """Write the curves."""
        if not self.processes.first:
            return
        contents = (self.curve.text(), self.held_out.text(), plot(self.curve, self.held_out))
        for name, data in zip(CURVES, contents, strict=True):
            self.staging.write_file(name, data)

    def keep(self, trainer: Trainer) -> None:
        """Write the curves and a checkpoint; every process calls it."""
        self.draw()
        folder = self.staging.path / STATE
        checkpoint.write_state(
            trainer.state(),
            trainer.step,
            folder,
            first=self.processes.first,
            wait=self.processes.wait,
        )

    def restore(self, trainer: Trainer) -> None:
        """Go on from the last checkpoint, if there is one."""
        folder = self.staging.path / STATE
        step = checkpoint.saved_step(folder)
        if step is None:
            return
        trainer.restore(step, lambda state: checkpoint.read_state(state, folder))
        texts = [fs.read_small(self.staging.path / name) for name in CURVES[:2]]
        self.curve, self.held_out = (Curve(t, until=step) for t in texts)
        log.info("going on from update %d", step)
