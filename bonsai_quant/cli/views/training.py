"""Answers of the commands that train: calibrate, fold, distill, recover."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bonsai_quant.conversion.calibration.record import CalibrationRecord, CodesRecord
from bonsai_quant.core import numbers
from bonsai_quant.core.numbers import duration
from bonsai_quant.training.distill import Distilled
from bonsai_quant.training.fold import Folded
from bonsai_quant.training.settings import DistillationSettings

from .answer import Answer, Table

if TYPE_CHECKING:
    from bonsai_quant.training.rungs import Ladder


def calibrated(out: Path, r: CalibrationRecord) -> Answer:
    """What was measured or solved, and how to use it."""
    if isinstance(r, CodesRecord):
        error, nearest = (
            sum(getattr(layer, kind) for layer in r.layers.values()) / len(r.layers)
            for kind in ("error", "nearest")
        )
        what = [
            f"{out}: {r.mode} codes of {len(r.layers)} layers by {r.solver}",
            f"error of a layer's outputs: {error:.4f}; with the nearest codes {nearest:.4f}",
        ]
    else:
        what = [f"{out}: inputs of {len(r.inputs)} layers in full precision"]
    seen = f"{r.states} states of {r.prompts.number} prompts, {numbers.size(r.size)}"
    lines = [*what, seen]
    return Answer("\n".join(lines), {"out": str(out), **r.model_dump(mode="json")})


def rungs(ladder: Ladder) -> Answer:
    """What each rung costs and brings, and which are taken."""
    rows = [("rung", "time", "memory", "brought on mini-klein", "")]
    for r in ladder.rungs:
        share = numbers.percent(r.kept.value) if r.kept else "not measured"
        rows.append(
            (r.name, duration(r.seconds), numbers.size(r.memory), share, r.problem or "taken")
        )
    head = f"about {duration(ladder.seconds)}; each rung begins with the one above it"
    data = [
        {"name": r.name, "seconds": r.seconds, "memory": r.memory, "updates": r.updates,
         "kept": r.kept.value if r.kept else None, "problem": r.problem}
        for r in ladder.rungs
    ]  # fmt: skip
    return Answer([Table(rows, (1, 2, 3)), head], {"rungs": data, "seconds": ladder.seconds})


def folded(result: Folded) -> Answer:
    """What was changed."""
    text = f"{result.out}: {len(result.layers)} layers changed, to the same outputs"
    return Answer(text, {"out": str(result.out), "layers": result.layers})


def training_memory(
    parts: dict[str, int], devices: int, apart: dict[str, int],
    settings: DistillationSettings | None,
) -> Answer:  # fmt: skip
    """What each of some GPUs would hold. apart: what main memory would hold instead.

    settings: those that were made to fit, if they were.
    """
    total = sum(parts.values())
    rows = [(f"  {name}", numbers.size(n)) for name, n in parts.items()]
    head = f"{numbers.size(total)} on each of {devices} GPU{'s' * (devices > 1)}"
    data: dict[str, Any] = {"devices": devices, "bytes": total, "parts": parts}
    lines: list[str | Table] = [head, Table(rows, (1,))]
    if settings is not None:
        lines.append(_saved(settings, sum(apart.values())))
        data |= {"main_memory": apart, "settings": settings.model_dump(mode="json", by_alias=True)}
    return Answer(lines, data)


def _saved(settings: DistillationSettings, apart: int) -> str:
    """How a training fits, in one line."""
    words = [*settings.savings, f"at_once {settings.at_once}"]
    words += [f"{k} 0" for k in ("average", "freeze") if not getattr(settings, k)]
    also = f"; {numbers.size(apart)} of main memory" if apart else ""
    return f"saved by {', '.join(words)}{also}"


def distilled(result: Distilled) -> Answer:
    """How the training ended, and how to use its result."""
    record = result.record
    assert record is not None, "only the first process has one"
    figures = ", ".join(f"{k} {v:.4f}" for k, v in record["held_out"].items() if k != "step")
    lines = [
        f"{result.out}: {record['layers']} layers on their {record['mode']} grid",
        f"held-out prompts after {record['settings']['steps']} updates: {figures}",
    ]
    return Answer("\n".join(lines), {"out": str(result.out), **record})
