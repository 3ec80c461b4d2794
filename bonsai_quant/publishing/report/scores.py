"""What `score --json` wrote of a pack, for its report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bonsai_quant.core.errors import BadInput
from bonsai_quant.packs.manifest import Manifest, conversion
from bonsai_quant.storage.strict_json import read_json

RECORDED = "score.json"
"""A file of this name beside a pack, or beside its formats, is read without being asked for."""


def find_score(
    folder: Path, manifest: Manifest | None, files: Sequence[str | Path]
) -> dict[str, Any] | None:
    """The score of a pack: of the files that were given, else a recorded one; None without one."""
    if manifest is None:
        return None
    recorded = [folder / RECORDED, folder.parent / RECORDED]
    for path in (*map(Path, files), *(p for p in recorded if p.is_file())):
        data = read_score_file(path)
        if data["conversion"] == conversion(manifest):
            return data
    return None


def read_score_file(path: Path) -> dict[str, Any]:
    """A score as JSON, refused where it is none."""
    data = read_json(path)
    try:
        rows(data)
        str(data["conversion"]), str(data["settings"]["split"])
    except (KeyError, TypeError, ValueError) as e:
        raise BadInput(
            "is not what `bonsai-quant score --json` prints", where=str(path), hint="score again"
        ) from e
    return dict(data)


def rows(data: dict[str, Any]) -> list[tuple[str, int, str, str, str]]:
    """Category, pictures, score, the source's score, share that is kept; overall first."""
    names = ["overall", *data["categories"]]
    table = []
    for name in names:
        own = _of(data, name)
        reference = _of(data["reference"], name)["score"] if data["reference"] else None
        kept = _of(data["retention"], name)["retention"] if data["retention"] else None
        table.append(
            (str(name), int(own["pictures"]), interval(own["score"]),
             interval(reference), interval(kept))
        )  # fmt: skip
    return table


def _of(data: dict[str, Any], name: str) -> Any:
    return data["overall"] if name == "overall" else data["categories"][name]


def interval(figure: dict[str, float | None] | None) -> str:
    """A share in percent with its 95 % interval; '' where it is not known."""
    if figure is None or figure["value"] is None:
        return ""
    value, low, high = figure["value"], figure["low"], figure["high"]
    text = f"{100 * float(value):.1f} %"
    if low is None or high is None:
        return text
    return f"{text} ({100 * float(low):.1f} to {100 * float(high):.1f})"
