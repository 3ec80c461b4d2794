"""What of an interrupted conversion can be continued, and when there is something to continue."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bonsai_quant.core.schema import LayerStats, PackTensor, to_json
from bonsai_quant.core.version import __version__
from bonsai_quant.packs.provenance import lora_record
from bonsai_quant.packs.write import PackWriter
from bonsai_quant.storage.journal import Journal
from bonsai_quant.storage.writer import sums_from_json

from .plan import Plan


def purpose(plan: Plan) -> dict[str, Any]:
    """What a journal is bound to. The source's bytes are compared as they are read."""
    return {
        "files": [[f.name, f.size] for f in plan.source.files],
        "formats": plan.formats,
        "recipe": plan.recipe.model_dump(mode="json"),
        "tensors": [to_json(t.tensor) for t in plan.tensors],
        "calibration": plan.calibration.sha256 if plan.calibration else None,
        "lora": [lora_record(a).model_dump(mode="json") for a in plan.loras],
        "version": __version__,
    }


def still_true(
    plan: Plan, journal: Journal, writers: Mapping[str, PackWriter]
) -> Iterator[tuple[LayerStats, str]]:
    """The journal's tensors whose bytes really are in every file, with their source's digest."""
    for planned in plan.tensors:
        entry = journal.entries.get(planned.tensor.name)
        if entry is None or not isinstance(entry.get("source"), str):
            continue
        stats = _stats_from_json(planned.tensor, entry.get("stats"))
        recorded = entry.get("sums")
        if stats is None or not isinstance(recorded, dict) or set(recorded) != set(writers):
            continue
        sums = {f: sums_from_json(v) for f, v in recorded.items()}
        if all(s is not None and writers[f].holds(planned.tensor, s) for f, s in sums.items()):
            yield stats, entry["source"]


def _stats_from_json(tensor: PackTensor, value: object) -> LayerStats | None:
    """What a journal says of a tensor's rounding; None when it is not of that form."""
    try:
        fields = dict(value)  # type: ignore[call-overload]
        stats = LayerStats(**fields | {"shape": tuple(fields["shape"])})
    except (TypeError, ValueError, KeyError):
        return None
    identity = (stats.name, stats.shape, stats.action)
    numbers = [v for k, v in fields.items() if k not in ("name", "shape", "action")]
    fits = all(v is None or (isinstance(v, int | float) and v == v) for v in numbers)  # no NaN
    return stats if fits and identity == (tensor.name, tensor.shape, tensor.action) else None
