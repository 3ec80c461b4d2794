"""What a report measured of a pack, for its card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BadInput
from ..manifest import GALLERY, Manifest
from ..shards import read_json
from ..storage import fs

DATA = "report.json"
MAX_PICTURE = 32 << 20


@dataclass(frozen=True, slots=True)
class Evidence:
    """checks: level, subject, status, detail.  prompts, models: rows and columns of `gallery`, PNG.

    decibels: of the pack's pictures to the source's, by prompt; empty without a source.
    """

    made_by: str
    checks: tuple[tuple[str, str, str, str], ...]
    models: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    decibels: tuple[float, ...] = ()
    gallery: bytes | None = None


def read_evidence(folder: Path, manifest: Manifest) -> Evidence:
    """A report's folder, refused when it is about packs of another conversion."""
    path = folder / DATA
    if not path.is_file():
        raise BadInput(
            f"has no {DATA}", where=str(folder), hint="make it with `bonsai-quant report`"
        )
    said = read_json(path)
    try:
        place = next(
            i for i, p in enumerate(said["packs"]) if _same_conversion(p["manifest"], manifest)
        )
        return _evidence(said, place, folder)
    except StopIteration:
        what = "is about other packs than this one"
    except (KeyError, TypeError, IndexError, AttributeError, ValueError):
        what = "is not what `bonsai-quant report` writes"
    raise BadInput(what, where=str(path), hint="make a report of this pack")


def _same_conversion(theirs: Any, mine: Manifest) -> bool:
    """Formats of one conversion differ in their files only."""
    if not isinstance(theirs, dict):
        return False
    said = mine.model_dump(mode="json")
    return all(
        theirs.get(k) == said[k]
        for k in ("base", "mode", "recipe", "source", "measured", "calibration")
    )


def _evidence(said: dict[str, Any], place: int, folder: Path) -> Evidence:
    pack, gallery = said["packs"][place], said["gallery"]
    checks = tuple(
        (str(c["level"]), str(c["subject"]), str(c["status"]), str(c["detail"]))
        for c in pack["verify"]["checks"]
    )
    picture = folder / GALLERY
    if "models" not in gallery or not picture.is_file():
        return Evidence(str(said["made_by"]), checks)
    decibels = gallery["decibels_to_source"]
    return Evidence(
        str(said["made_by"]),
        checks,
        tuple(map(str, gallery["models"])),
        tuple(map(str, gallery["prompts"])),
        tuple(float(d) for d in decibels[place]) if decibels else (),
        fs.read_small(picture, MAX_PICTURE),
    )
