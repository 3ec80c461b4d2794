"""What was measured of a pack, for its card: by `report`, and by `score`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bonsai_quant.core.errors import BadInput
from bonsai_quant.packs.card.records import Evidence, Score
from bonsai_quant.packs.manifest import GALLERY, Manifest, conversion
from bonsai_quant.storage import fs
from bonsai_quant.storage.strict_json import read_json

from .labelled_grid import labelled

DATA = "report.json"
MAX_PICTURE = 32 << 20


def read_evidence(folder: Path, manifest: Manifest) -> Evidence:
    """A report's folder, refused when it is about packs of another conversion."""
    path = folder / DATA
    if not path.is_file():
        raise BadInput(
            f"has no {DATA}", where=str(folder), hint="make it with `bonsai-quant report`"
        )
    data = read_json(path)
    try:
        index = next(
            i
            for i, p in enumerate(data["packs"])
            if p["manifest"]
            and conversion(Manifest.model_validate(p["manifest"])) == conversion(manifest)
        )
        return _evidence(data, index, folder)
    except StopIteration:
        problem = "is about other packs than this one"
    except (KeyError, TypeError, IndexError, AttributeError, ValueError):
        problem = "is not what `bonsai-quant report` writes"
    raise BadInput(problem, where=str(path), hint="make a report of this pack")


def read_score(path: Path, manifest: Manifest) -> Score:
    """What `score --json` printed, refused when it is about a pack of another conversion."""
    data = read_json(path)
    try:
        if data["conversion"] != conversion(manifest):
            raise BadInput(
                "is about another pack than this one",
                where=str(path),
                hint="score this one: `bonsai-quant score PACK --against SOURCE --json`",
            )
        task, kept = data["settings"], data["retention"]
        return Score(
            str(data["format"]),
            int(data["overall"]["pictures"]),
            6 * int(task["prompts_per_category"]),
            f"{int(task['width'])} x {int(task['height'])}",
            int(task["num_inference_steps"]),
            _interval(data["overall"]["score"]),
            _interval(data["reference"]["overall"]["score"]) if data["reference"] else "",
            _interval(kept["overall"]["retention"]) if kept else "",
            _percent(data["overall"]["score"]),
            _percent(kept["overall"]["retention"]) if kept else None,
            str(task["split"]),
        )
    except (KeyError, TypeError, ValueError) as e:
        raise BadInput(
            "is not what `bonsai-quant score --json` prints", where=str(path), hint="score again"
        ) from e


def _percent(data: dict[str, float | None]) -> float | None:
    """The value alone, to a tenth."""
    return None if data["value"] is None else round(100 * data["value"], 1)


def _interval(data: dict[str, float | None]) -> str:
    value, low, high = (data[k] for k in ("value", "low", "high"))
    if value is None:  # a share of nothing
        return ""
    if low is None or high is None:
        return f"{100 * value:.1f} % (no interval: too few pictures)"
    return f"{100 * value:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def _evidence(data: dict[str, Any], index: int, folder: Path) -> Evidence:
    pack, gallery = data["packs"][index], data["gallery"]
    made_by, painted_by = str(data["made_by"]), str(pack["manifest"]["format"])
    checks = tuple(
        (str(c["level"]), str(c["subject"]), str(c["status"]), str(c["detail"]))
        for c in pack["verify"]["checks"]
    )
    picture = folder / GALLERY
    if "models" not in gallery or not picture.is_file():
        return Evidence(made_by, painted_by, checks)
    decibels = gallery["decibels_to_source"]
    models, prompts = (tuple(map(str, gallery[k])) for k in ("models", "prompts"))
    return Evidence(
        made_by,
        painted_by,
        checks,
        models,
        prompts,
        tuple(float(d) for d in decibels[index]) if decibels else (),
        labelled(fs.read_small(picture, MAX_PICTURE), models, prompts),
    )
