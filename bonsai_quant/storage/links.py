"""Links inside a folder, and what they may point to."""

from __future__ import annotations

import os
import re
from pathlib import Path

from bonsai_quant.core.errors import BadInput


def refuse_outside(path: Path, folder: Path) -> None:
    """A link may lead within the folder, or to the blobs of the Hub cache it stands in."""
    if not path.is_symlink():
        return
    real, root = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    if real.is_relative_to(root):
        return
    repo = next((p.parent for p in root.parents if p.name == "snapshots"), None)
    if repo and re.fullmatch(r"[0-9a-f]{40,64}", real.name):
        shared = repo.parent / "blobs" / real.name[:2]  # blobs of several repos
        if real.parent in (repo / "blobs", shared):
            return
    raise BadInput(
        f"is a link that leaves the model's folder (to {real})",
        where=str(path),
        hint="copy the file into the folder",
    )
