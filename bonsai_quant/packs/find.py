"""Find packs: which folders are packs, in which format, and which were written by this program."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bonsai_quant.core.errors import BadInput, BonsaiError
from bonsai_quant.core.schema import Mode
from bonsai_quant.core.shell import command_line
from bonsai_quant.sources.shipped import NAMES, find_shipped_pack
from bonsai_quant.storage import fs
from bonsai_quant.storage.strict_json import strict_json

from .formats import FORMATS
from .manifest import BESIDE, Manifest, is_of_this_program, validate_manifest
from .manifest import NAME as MANIFEST

RECORDS = ("calibration.json", "folding.json", "distillation.json")
"""What lies in the folders that lead to packs, and lists their files."""


@dataclass(frozen=True, slots=True)
class PackFolder:
    """A pack's folder, looked at once: what lies in it and what its manifest says.

    format, mode, weights: of the weight file; None where there is none.
    manifest: of this program.  foreign: of another, as parsed.  broken: what is wrong with it.
    All three are None where no manifest.json is there.
    """

    path: Path
    format: str | None
    mode: Mode | None
    weights: Path | None
    manifest: Manifest | None
    foreign: Mapping[str, Any] | None
    broken: BonsaiError | None

    @property
    def is_pack(self) -> bool:
        """Weights are there, or a manifest of this program; without weights the pack is damaged."""
        listed = self.manifest is not None or self.broken is not None
        return self.weights is not None or listed

    def own_manifest(self) -> Manifest | None:
        """The manifest of this program; None in packs of others. Raises what is wrong with it."""
        if self.broken is not None:
            raise self.broken
        return self.manifest


def look(folder: Path) -> PackFolder:
    """Look at a folder, whatever it holds. Its manifest is read and parsed once."""
    manifest, foreign, broken = _read_manifest(folder)
    listed = manifest.format if manifest else "" if broken else None
    name, mode, weights = _weights(folder, listed) or (None, None, None)
    return PackFolder(folder, name, mode, weights, manifest, foreign, broken)


def _read_manifest(
    folder: Path,
) -> tuple[Manifest | None, Mapping[str, Any] | None, BonsaiError | None]:
    """(this program's, another's, what is wrong): at most one of them."""
    path = folder / MANIFEST
    if not path.exists():
        return None, None, None
    try:
        data = strict_json(fs.read_small(path))
        if not is_of_this_program(data):
            return None, data if isinstance(data, dict) else {}, None
        return validate_manifest(data, str(path)), None, None
    except BonsaiError as e:
        return None, None, e
    except ValueError as e:
        wrong = BadInput(f"is not JSON: {e}", where=str(path), hint="convert again")
        return None, None, wrong


def _weights(folder: Path, listed: str | None) -> tuple[str, Mode, Path] | None:
    """Format, mode and weight file. listed: as for `Format.is_at`."""
    for name, row in FORMATS.items():
        for mode in row.modes:
            path = folder / row.weights_path(mode)
            if os.path.lexists(path) and row.is_at(path, listed):
                return name, mode, path
    return None


def find_packs(path: Path) -> list[PackFolder]:
    """The packs at `path`: itself, those that a conversion put into it, or a shipped one."""
    if not os.path.lexists(path) and (shipped := find_shipped_pack(str(path))):
        return [look(shipped)]
    if (here := look(path)).is_pack:
        return [here]
    # A manifest without its weights is a damaged pack, which must not be passed over.
    return [f for f in (look(path / name) for name in FORMATS) if f.is_pack]


def require_packs(path: Path) -> list[PackFolder]:
    """The packs at `path`; BadInput where there is none."""
    if folders := find_packs(path):
        return folders
    raise no_pack(path)


def no_pack(path: Path) -> BadInput:
    """The error for a path without packs: what it is instead, and what to type."""
    shown, place = command_line(path), str(path)
    if place in NAMES or (path / "model_index.json").is_file() or path.suffix == ".safetensors":
        return BadInput(
            "is a model in full precision, not a pack",
            where=place,
            hint=f"make packs of it: bonsai-quant convert {shown} --mode ternary -o packs",
        )
    what = "holds no pack" if os.path.isdir(path) else "is no folder, so it holds no pack"
    if not os.path.lexists(path):
        what = "there is no such folder, so it holds no pack"
    return BadInput(what, where=place, hint="give a folder made by `bonsai-quant convert`")


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
        if folder.manifest is None:
            return False
        names = (*(f.path for f in folder.manifest.files), MANIFEST, *BESIDE)
        listed |= {str((folder.path / n).relative_to(out)) for n in names}
    return bool(folders) and there <= listed


def _listed(record: Path) -> set[str]:
    """The files that a record says belong to it."""
    try:
        data = strict_json(fs.read_small(record))
    except (BonsaiError, ValueError):
        return set()
    files = data.get("files") if isinstance(data, dict) else None
    return {f for f in files if isinstance(f, str)} if isinstance(files, list) else set()
