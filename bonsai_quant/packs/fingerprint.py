"""What tells whether a model is still the one that an interrupted run began with."""

from __future__ import annotations

import hashlib
from pathlib import Path

from bonsai_quant.sources.components.layout import FOLDERS
from bonsai_quant.storage import fs

from .pipeline import Pipeline


def fingerprint(pipeline: Pipeline) -> str:
    """sha256 over the bytes of all that paints: the weights of a pack, and every component.

    The names of the folders above do not matter, so that a moved model is still the same.
    """
    digest = hashlib.sha256()
    if pipeline.pack is not None:
        _add(digest, "pack", pipeline.pack.path)
    for name in FOLDERS if pipeline.pack is not None else (*FOLDERS, "transformer"):
        if name == "scheduler" and not (pipeline.folder / name).is_dir():
            continue
        folder = pipeline.part(name)
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            _add(digest, f"{name}/{path.relative_to(folder).as_posix()}", path)
    return digest.hexdigest()


def _add(digest: hashlib._Hash, name: str, path: Path) -> None:
    size, sha256 = fs.sha256_file(path)
    digest.update(f"{name} {size} {sha256}\n".encode())
