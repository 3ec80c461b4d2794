"""Guards of an output folder: nothing else is overwritten, and no input."""

from __future__ import annotations

import os
from pathlib import Path

from bonsai_quant.core.errors import OutputExists, UsageError
from bonsai_quant.sources.checkpoint import Source
from bonsai_quant.storage import fs


def check_output(out: Path, source: Source, *, overwrite: bool) -> None:
    """Refuse an output that is there, or that would touch the source."""
    target = Path(os.path.realpath(out))
    local = [] if source.id else [Path(source.place)]
    inputs = [*local, *(f.path for f in source.files)]
    for path in (Path(os.path.realpath(p)) for p in inputs):
        if path.is_relative_to(target) or target.is_relative_to(path):
            raise UsageError(
                f"the output {out} and the source {source.place} overlap",
                hint="choose an output outside of the source with -o",
            )
    check_free(out, overwrite=overwrite)


def check_free(out: Path, *, overwrite: bool) -> None:
    """Refuse an existing output, unless it is a pack of this program and may be overwritten."""
    from .find import is_ours

    if not os.path.lexists(out):
        return
    with fs.explained(out, "looking at the output"):
        empty = out.is_dir() and not out.is_symlink() and not any(out.iterdir())
    if empty:
        if overwrite:
            return
        raise OutputExists("exists already (empty)", where=str(out), hint="remove it or use -o")
    ours = is_ours(out)
    if not overwrite and ours:
        raise OutputExists(
            "exists already",
            where=str(out),
            hint="choose another output with -o, or pass --overwrite",
        )
    if not ours:
        raise OutputExists(
            "exists already, and is not a pack of this program or holds other files too",
            where=str(out),
            hint="choose another output with -o",
        )
