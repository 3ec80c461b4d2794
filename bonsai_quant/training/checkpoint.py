"""The state of a training run on disk: torch's own distributed checkpoint, whole or not at all.

Any number of processes can save it, and any other number can go on from it
(https://docs.pytorch.org/docs/stable/distributed.checkpoint.html).
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from bonsai_quant.core.errors import BadInput
from bonsai_quant.storage import fs

STEP = "step.json"


def write_state(state: dict[str, Any], step: int, folder: Path, *, first: bool, wait: Any) -> None:
    """Write beside the last one, then rename. Every process calls it; the first one renames.

    wait: returns when all processes have come to it.
    """
    import torch.distributed.checkpoint as dcp

    part, old = folder.with_name(f"{folder.name}.part"), folder.with_name(f"{folder.name}.old")
    if first:
        with fs.explained(part, "removing"):
            fs.change("rmtree", shutil.rmtree, part, ignore_errors=True)
            fs.change("rmtree", shutil.rmtree, old, ignore_errors=True)
    wait()
    with fs.explained(part, "writing the checkpoint"):
        fs.change("write", dcp.save, state, checkpoint_id=part, no_dist=_alone())
    wait()
    if not first:
        return
    with fs.explained(folder, "renaming the checkpoint"):
        fs.change("write", (part / STEP).write_text, json.dumps({"step": step}))
        if folder.exists():
            fs.change("rename", os.rename, folder, old)
        fs.change("rename", os.rename, part, folder)
        fs.change("rmtree", shutil.rmtree, old, ignore_errors=True)


def saved_step(folder: Path) -> int | None:
    """The step of the last whole checkpoint; None when there is none."""
    old = folder.with_name(f"{folder.name}.old")
    for place in (folder, old):  # a kill between the two renames leaves the old one
        if (place / STEP).is_file():
            return int(json.loads(fs.read_small(place / STEP))["step"])
    return None


def read_state(state: dict[str, Any], folder: Path) -> None:
    """Fill a state in place."""
    import torch.distributed.checkpoint as dcp

    old = folder.with_name(f"{folder.name}.old")
    place = folder if (folder / STEP).is_file() else old
    try:
        dcp.load(state, checkpoint_id=place, no_dist=_alone())
    except (RuntimeError, ValueError, KeyError, OSError, EOFError) as e:
        reason = " ".join(str(e).split())[:300]
        raise BadInput(
            f"the checkpoint does not fit: {reason}",
            where=str(place),
            hint="run without --resume and with --overwrite to start again",
        ) from e


def _alone() -> bool:
    import torch

    return not torch.distributed.is_initialized()
