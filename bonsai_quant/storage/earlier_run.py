"""What an interrupted run left is not thrown away by a command that is typed again."""

from __future__ import annotations

import logging
from pathlib import Path

from bonsai_quant.core.errors import OutputExists

log = logging.getLogger(__name__)


def give_up(folder: Path, finished: str, *, overwrite: bool) -> None:
    """Refuse to begin anew over finished work, unless that was asked for.

    folder: what the run left.  finished: how far it came, in words, "" when nothing is of use.
    """
    if not finished:
        return
    if overwrite:
        log.warning("%s: the interrupted run there is given up: %s", folder, finished)
        return
    raise OutputExists(
        f"an interrupted run lies there: {finished}",
        where=str(folder),
        hint="continue it with --resume, or start again with --overwrite",
    )
