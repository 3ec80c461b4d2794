"""Scores as text for people and as plain data for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bonsai_quant.core.schema import to_json
from bonsai_quant.core.text import columns
from bonsai_quant.evaluation.bootstrap import FEW, Figure
from bonsai_quant.evaluation.score import CategoryScore, ModelScore, Retention, Scored
from bonsai_quant.evaluation.task import Task


def text(result: Scored) -> str:
    """Tables of the scores, of what was kept, and of what went wrong."""
    models = [m for m in (result.model, result.reference) if m]
    blocks = [" against ".join(m.name for m in models), about(result.task)]
    blocks += [_count(m) for m in models]
    blocks += ["", _scores(models)]
    if result.kept:
        blocks += ["", _kept(result.kept)]
    return "\n".join([*blocks, "", _failures(result.model)])


def _count(model: ModelScore) -> str:
    """How many pictures passed, in plain numbers."""
    n = model.overall.pictures
    failed = sum(model.overall.failures.values())
    return f"{model.name}: {n - failed} of {n} pictures show what their caption says"


def about(task: Task) -> str:
    """One line about what was painted, and how."""
    b = task.benchmark
    pictures = "1 picture" if task.images == 1 else f"{task.images} pictures"
    return (
        f"{task.split} prompts: {task.per_category} per category, {pictures} each of "
        f"{b.width} x {b.height}, {b.num_inference_steps} steps, seed {task.seed}"
    )


def short_table(models: Sequence[ModelScore]) -> str:
    """One row per model: the overall score, its interval, and the continuous score."""
    rows = [("", "score", "95 %", "continuous")]
    rows += [(m.name, *figure(m.overall.score), f"{m.overall.continuous:.3f}") for m in models]
    return columns(rows, (1, 3))


def figure(f: Figure, few: bool = False) -> tuple[str, str]:
    """A share in percent, and its interval; a dash for what cannot be told.

    few: whether that is because there are too few pictures.
    """
    if f.value is None:
        return "-", "-"
    value = f"{100 * f.value:.1f} %"
    if f.low is None or f.high is None:
        return value, "too few pictures" if few else "-"
    return value, f"{100 * f.low:.1f} to {100 * f.high:.1f}"


def _scores(models: Sequence[ModelScore]) -> str:
    heads = ("score", "reference")[: len(models)]
    rows = [("", *(c for head in heads for c in (head, "95 %", "continuous")))]
    for parts in zip(*((m.overall, *m.categories) for m in models), strict=True):
        cells = (c for p in parts for c in (*figure(p.score), f"{p.continuous:.3f}"))
        rows.append((parts[0].name, *cells))
    return columns(rows, (1, 3, 4, 6))


def _kept(kept: Sequence[Retention]) -> str:
    rows = [("", "retention", "95 %", "chance", "adjusted", "95 %")]
    for k in kept:
        chance = "-" if k.chance is None else f"{100 * k.chance:.1f} %"
        few = k.prompts < FEW
        rows.append((k.name, *figure(k.retention, few), chance, *figure(k.adjusted, few)))
    return columns(rows, (1, 3, 4))


def _failures(model: ModelScore) -> str:
    kinds = list(model.overall.failures)
    if not kinds:
        return "no picture failed"
    rows = [("failed for", *kinds, "of")]
    for c in (model.overall, *model.categories):
        rows.append((c.name, *(str(c.failures.get(k, 0)) for k in kinds), str(c.pictures)))
    return columns(rows, range(1, len(kinds) + 2))


def data(result: Scored) -> dict[str, Any]:
    """Everything, for `--json`."""
    return {
        "place": result.model.name,
        "against": result.reference.name if result.reference else None,
        "conversion": result.conversion,
        "format": result.format,
        "settings": settings(result.task),
        **_model(result.model),
        "reference": _model(result.reference) if result.reference else None,
        "retention": _retention(result.kept) if result.kept else None,
    }


def settings(task: Task) -> dict[str, Any]:
    """What was painted, and how."""
    return {
        "split": task.split,
        "prompts_per_category": task.per_category,
        "images_per_prompt": task.images,
        "seed": task.seed,
        **task.benchmark.model_dump(),
    }


def _model(model: ModelScore) -> dict[str, Any]:
    return {
        "overall": _category(model.overall),
        "categories": {c.name: _category(c) for c in model.categories},
    }


def _category(c: CategoryScore) -> dict[str, Any]:
    return {k: v for k, v in to_json(c).items() if k != "name"}


def _retention(kept: Sequence[Retention]) -> dict[str, Any]:
    overall, *each = [{k: v for k, v in to_json(x).items() if k != "name"} for x in kept]
    names = [x.name for x in kept[1:]]
    return {"overall": overall, "categories": dict(zip(names, each, strict=True))}
