"""What of an interrupted conversion can be continued, and when there is something to continue."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from .errors import EnvironmentFault, OutputExists
from .manifest import lora_record
from .packwriter import PackWriter
from .plan import Plan
from .schema import LayerStats, PackTensor, to_json
from .storage.fs import NotOnDisk
from .storage.journal import Journal
from .storage.staging import Staging
from .storage.writer import sums_from_json
from .version import __version__


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
        said = entry.get("sums")
        if stats is None or not isinstance(said, dict) or set(said) != set(writers):
            continue
        sums = {f: sums_from_json(v) for f, v in said.items()}
        if all(s is not None and writers[f].holds(planned.tensor, s) for f, s in sums.items()):
            yield stats, entry["source"]


def _stats_from_json(tensor: PackTensor, value: object) -> LayerStats | None:
    """What a journal says of a tensor's rounding; None when it is not of that form."""
    try:
        fields = dict(value)  # type: ignore[call-overload]
        stats = LayerStats(**fields | {"shape": tuple(fields["shape"])})
    except (TypeError, ValueError, KeyError):
        return None
    said = (stats.name, stats.shape, stats.action)
    numbers = [v for k, v in fields.items() if k not in ("name", "shape", "action")]
    fits = all(v is None or (isinstance(v, int | float) and v == v) for v in numbers)  # no NaN
    return stats if fits and said == (tensor.name, tensor.shape, tensor.action) else None


@contextlib.contextmanager
def kept_for_resume(staging: Staging) -> Iterator[None]:
    """Keep the staging folder after an interruption or a machine's fault, not after bad input."""
    try:
        yield
    except NotOnDisk:
        raise
    except EnvironmentFault as e:
        staging.keep = True
        e.hint = f"{e.hint}; the same command with --resume continues".removeprefix("; ")
        raise
    except (OutputExists, MemoryError):
        staging.keep = True
        raise
    except BaseException as e:
        staging.keep = not isinstance(e, Exception)
        raise
