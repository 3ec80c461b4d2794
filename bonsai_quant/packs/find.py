"""Find packs: which folders are packs, in which format, and which were written by this program."""

from __future__ import annotations

import os
from pathlib import Path

from bonsai_quant.core.errors import BonsaiError
from bonsai_quant.core.schema import Mode
from bonsai_quant.sources.shipped import find_shipped_pack
from bonsai_quant.storage import fs
from bonsai_quant.storage.strict_json import strict_json

from . import on_grid
from .formats import FORMAT_NAMES, FORMATS
from .manifest import BESIDE, is_foreign_manifest, read_manifest
from .manifest import NAME as MANIFEST

RECORDS = ("calibration.json", "folding.json", "distillation.json")
"""What lies in the folders that lead to packs, and lists their files."""


def find_packs(path: Path) -> list[Path]:
    """The pack folders at `path`: itself, those that a conversion put into it, or a shipped one."""
    if not os.path.lexists(path) and (shipped := find_shipped_pack(str(path))):
        return [shipped]
    if weight_file(path) or _is_listed(path):
        return [path]
    # A manifest without its weights is a damaged pack, which must not be passed over.
    folders = [path / n for n in FORMAT_NAMES]
    return [f for f in folders if weight_file(f) or _is_listed(f)]


def _is_listed(folder: Path) -> bool:
    return (folder / MANIFEST).is_file() and not is_foreign_manifest(folder)


def weight_file(folder: Path) -> tuple[str, Mode, Path] | None:
    """Format, mode and weight file of a pack's folder, from the files that are there."""
    for name, row in FORMATS.items():
        for mode in row.modes:
            path = folder / row.weights_path(mode)
            if os.path.lexists(path) and (not row.is_checkpoint or _is_pack(folder, path)):
                return name, mode, path
    return None


def _is_pack(folder: Path, path: Path) -> bool:
    """Whether what lies like a checkpoint is a pack: our manifest tells, else the weights do."""
    ours = os.path.lexists(folder / MANIFEST) and not is_foreign_manifest(folder)
    return ours or on_grid.is_on_grid(path)


def is_ours(out: Path) -> bool:
    """Whether a folder holds what this program made and nothing else, so that it may be replaced.

    Packs, or what leads to them: a calibration, a folded or a trained pipeline.
    """
    if out.is_symlink() or not out.is_dir():
        return False
    there = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_symlink() or not p.is_dir()}
    if record := next((r for r in RECORDS if r in there), None):
        return there <= {record, *_listed(out / record)}
    folders = find_packs(out)
    listed: set[str] = set()
    for folder in folders:
        try:
            manifest = read_manifest(folder)
        except BonsaiError:
            return False
        listed |= {str((folder / f.path).relative_to(out)) for f in manifest.files}
        listed |= {str((folder / n).relative_to(out)) for n in (MANIFEST, *BESIDE)}
    return bool(folders) and there <= listed


def _listed(record: Path) -> set[str]:
    """The files that a record says belong to it."""
    try:
        said = strict_json(fs.read_small(record))
    except (BonsaiError, ValueError):
        return set()
    files = said.get("files") if isinstance(said, dict) else None
    return {f for f in files if isinstance(f, str)} if isinstance(files, list) else set()
