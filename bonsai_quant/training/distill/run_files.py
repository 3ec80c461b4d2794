"""What a run leaves on disk while it goes on: what it is, its curves, and its last state."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from bonsai_quant.core.errors import BonsaiError, OutputExists
from bonsai_quant.storage import fs
from bonsai_quant.storage.staging import Staging
from bonsai_quant.storage.strict_json import strict_json
from bonsai_quant.training import checkpoint
from bonsai_quant.training.distributed import ProcessGroup

from .curves import Curve, plot
from .trainer import Trainer

CURVE, HELD_OUT, PICTURE = "curve.csv", "held_out.csv", "curve.png"
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
        self._can_draw = True

    def bind(self, purpose: dict[str, Any], *, resume: bool) -> None:
        """Refuse to resume a run with another purpose than it had."""
        text = json.dumps(purpose, sort_keys=True).encode()
        path = self.staging.path / PURPOSE
        if resume and path.exists() and fs.read_small(path) != text:
            raise OutputExists(
                "the interrupted run had another source, recipe, seed, prompts or version",
                where=str(self.staging.target),
                hint="run without --resume and with --overwrite to start again",
            )
        if resume and not path.exists():
            target = self.staging.target
            log.warning("%s: nothing there to resume; starting from the beginning", target)
            self.staging.start_again()
        elif resume and checkpoint.saved_step(self.staging.path / STATE) is None:
            log.warning("training: from the beginning, there is no checkpoint yet")
        self.staging.write_file(PURPOSE, text)

    def draw(self) -> tuple[str, ...]:
        """Write the curves: their numbers, and a picture of them if it can be drawn; -> the files.

        Only the first process writes.
        """
        if not self.processes.first:
            return ()
        contents = {CURVE: self.curve.text(), HELD_OUT: self.held_out.text()}
        if (picture := self._picture()) is not None:
            contents[PICTURE] = picture
        for name, data in contents.items():
            self.staging.write_file(name, data)
        return tuple(contents)

    def _picture(self) -> bytes | None:
        """The curves as a PNG. What only draws must not end hours of training: it warns, once."""
        if not self._can_draw:
            return None
        try:
            return plot(self.curve, self.held_out)
        except Exception as e:  # noqa: BLE001 - matplotlib may be missing, broken or misconfigured
            self._can_draw = False
            log.warning(
                "%s is not drawn: %s: %s; the training goes on, its numbers are in %s and %s",
                PICTURE, type(e).__name__, e, CURVE, HELD_OUT,
            )  # fmt: skip
            return None

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
        texts = [fs.read_small(self.staging.path / name) for name in (CURVE, HELD_OUT)]
        self.curve, self.held_out = (Curve(t, until=step) for t in texts)
        if self.processes.first:
            log.warning("training: from update %d", step)


def finished(staging: Path) -> str:
    """How far the run came whose state lies in a folder, in words; "" when there is none."""
    try:
        step = checkpoint.saved_step(staging / STATE)
        purpose = strict_json(fs.read_small(staging / PURPOSE))
        total = purpose["settings"]["steps"]
    except (OSError, BonsaiError, ValueError, TypeError, KeyError):
        return ""
    return "" if not step else f"a checkpoint of update {step:,} of {total}"
