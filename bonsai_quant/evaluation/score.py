"""How well a model paints what captions say, and how much of that a pack keeps of its source.

The score is the share of pictures that the checker passes: per category, and as the mean of the six
categories. Both models get the same prompts and the same noise. What luck alone
scores is measured on the reference's own pictures, judged by the captions of other prompts.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bonsai_quant.core.errors import BadInput, UsageError
from bonsai_quant.core.progress import Progress, no_progress
from bonsai_quant.evaluation.scenes.world import CATEGORIES
from bonsai_quant.packs.manifest import conversion
from bonsai_quant.packs.pipeline import Pipeline, locate
from bonsai_quant.runners.picture_settings import read_benchmark
from bonsai_quant.storage.small_file import write_file

from .bootstrap import Figure, Resampled, adjusted_ratio, ratio, resample
from .contact_sheet import Cell, Row, check_png, draw_grid
from .gallery import (
    BATCH,
    Gallery,
    Marks,
    Task,
    chance_marks,
    check_packages,
    make_task,
    paint_gallery,
)

MAX_PICTURES = 1_000_000
N_SHOWN = 2
"""Prompts of each category, and pictures of each model, in a grid."""


@dataclass(frozen=True, slots=True)
class CategoryScore:
    """One category, or all ("overall").

    score: share of pictures passed.  continuous: mean of the checker's 0 to 1, which tells bad from
    worse.  failures: what was wrong, and in how many pictures.
    """

    name: str
    pictures: int
    score: Figure
    continuous: float
    failures: dict[str, int]


@dataclass(frozen=True, slots=True)
class Retention:
    """What a pack keeps of a reference, in one category or overall.

    retention: score / reference's score.  chance: the score of pictures made for other captions;
    None when the prompts all say the same.  adjusted: (score - chance) / (reference's - chance).
    """

    name: str
    retention: Figure
    chance: float | None
    adjusted: Figure


@dataclass(frozen=True, slots=True)
class ModelScore:
    """The scores of one model."""

    name: str
    overall: CategoryScore
    categories: tuple[CategoryScore, ...]


@dataclass(frozen=True, slots=True)
class Scored:
    """The result of `score`. reference and kept: only with `against`; kept begins with overall.

    conversion, format: of the pack that was scored, as its manifest says.
    """

    task: Task
    model: ModelScore
    reference: ModelScore | None
    kept: tuple[Retention, ...]
    conversion: dict[str, Any] | None = None
    format: str | None = None


def score(
    place: str | Path,
    *,
    against: str | None = None,
    pipeline: str | None = None,
    split: str = "test",
    prompts: int = 100,
    images: int = 4,
    seed: int = 0,
    batch: int = BATCH,
    grid: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Scored:
    """Paint `images` pictures of every prompt, judge them, and compare them with a reference's.

    place: a pack, a pipeline's folder, or a shipped model's name.  against: the reference, any of
    these.  pipeline: the other parts of a pack; by default its source's, else the reference's.
    split: `test`, or `dev` for choosing.  prompts: per category.  seed: of the noise.
    batch: pictures painted at once.  grid: a PNG to write, with examples.  progress: of pictures.
    """
    check_packages()
    if grid is not None:
        check_png(Path(grid), overwrite=overwrite)
    pipelines = find_pipelines(str(place), against, pipeline)
    task = task_for(pipelines, split=split, prompts=prompts, images=images, seed=seed)
    if batch < 1:
        raise UsageError(f"batch must be at least 1, not {batch}")
    galleries = [paint_gallery(p, task, batch=batch, progress=progress) for p in pipelines]
    if grid is not None:
        write_file(Path(grid), examples(galleries[::-1]), overwrite=overwrite)
    manifest = pipelines[0].pack.manifest if pipelines[0].pack else None
    result = compare(*galleries)
    if manifest is None:
        return result
    return replace(result, conversion=conversion(manifest), format=manifest.format)


def find_pipelines(place: str, against: str | None, pipeline: str | None) -> list[Pipeline]:
    """What is to be scored, then the reference if there is one."""
    reference = locate(against, pipeline=pipeline) if against is not None else None
    spare = str(reference.folder) if reference else None
    pipelines = [locate(place, pipeline=pipeline, spare=spare)]
    if reference is not None:
        pipelines.append(reference)
    if pipeline is not None and all(p.pack is None for p in pipelines):
        raise UsageError(
            f"{place} is a whole pipeline: --pipeline is for packs", hint="leave it out"
        )
    return pipelines


def task_for(
    pipelines: list[Pipeline], *, split: str, prompts: int, images: int, seed: int
) -> Task:
    """The same task for all models; their pipelines must agree on how pictures are made."""
    for name, value, least in (("prompts", prompts, 1), ("images", images, 1), ("seed", seed, 0)):
        if value < least:
            raise UsageError(f"{name} must be at least {least}, not {value}")
    if prompts * images * len(CATEGORIES) > MAX_PICTURES:
        raise UsageError(f"more than {MAX_PICTURES:,} pictures", hint="ask for fewer")
    benchmarks = [read_benchmark(p.folder) for p in pipelines]
    if any(b != benchmarks[0] for b in benchmarks):
        raise BadInput(
            "their pipelines have different benchmark.json: pictures cannot be compared",
            where=" and ".join(p.name for p in pipelines),
            hint="pass one --pipeline",
        )
    return make_task(benchmarks[0], split, prompts, images, seed)


def compare(gallery: Gallery, reference: Gallery | None = None) -> Scored:
    """The scores of a gallery, and what it keeps of a reference's for the same task."""
    if reference is None:
        return Scored(gallery.task, _tally(gallery), None, ())
    assert gallery.task == reference.task
    chance = chance_marks(reference)
    return Scored(
        gallery.task, _tally(gallery), _tally(reference), _kept(gallery, reference, chance)
    )


def _tally(gallery: Gallery) -> ModelScore:
    marks, n = gallery.marks, gallery.task.per_category
    slices = [slice(0, len(marks.passed))]
    slices += [slice(at, at + n) for at in range(0, len(marks.passed), n)]
    overall, *each = [
        CategoryScore(
            name,
            marks.passed[rows].size,
            sampled.figure(),
            round(float(marks.continuous[rows].mean()), 6),
            _failures(marks, rows),
        )
        for name, sampled, rows in zip(
            ("overall", *CATEGORIES), _resampled(gallery, marks), slices, strict=True
        )
    ]
    return ModelScore(gallery.name, overall, tuple(each))


def _resampled(gallery: Gallery, marks: Marks) -> list[Resampled]:
    """Shares passed: overall, then per category. One seed, so that all models share resamples."""
    shares = marks.passed.mean(1, dtype=np.float64)
    return resample(shares.reshape(len(CATEGORIES), -1), gallery.task.seed)


def _failures(marks: Marks, rows: slice) -> dict[str, int]:
    """In the order of the checker's list, those that there are."""
    from bonsai_quant.evaluation.scenes.checker import FAILURES

    counts = Counter(str(f) for f in marks.failures[rows].ravel())
    return {name: counts[name] for name in FAILURES if counts[name]}


def _kept(gallery: Gallery, reference: Gallery, chance: Marks | None) -> tuple[Retention, ...]:
    ours, theirs = _resampled(gallery, gallery.marks), _resampled(reference, reference.marks)
    names = ("overall", *CATEGORIES)
    if chance is None:
        unknown = Figure(None, None, None)
        return tuple(
            Retention(n, ratio(a, b), None, unknown)
            for n, a, b in zip(names, ours, theirs, strict=True)
        )
    return tuple(
        Retention(name, ratio(a, b), round(c.value, 6), adjusted_ratio(a, b, c))
        for name, a, b, c in zip(names, ours, theirs, _resampled(reference, chance), strict=True)
    )


def examples(galleries: list[Gallery], prompts: int = N_SHOWN, images: int = N_SHOWN) -> bytes:
    """A PNG: the first prompts of every category, with the first pictures of every gallery."""
    task = galleries[0].task
    images = min(images, task.images)
    heads = [h for g in galleries for h in (Path(g.name).name, *[""] * (images - 1))]
    chosen = [
        c * task.per_category + i
        for c in range(len(CATEGORIES))
        for i in range(min(prompts, task.per_category))
    ]
    return draw_grid(heads, [_row(galleries, n, images) for n in chosen])


def _row(galleries: list[Gallery], n: int, images: int) -> Row:
    cells = tuple(
        Cell(g.pictures[n, k], bool(g.marks.passed[n, k])) for g in galleries for k in range(images)
    )
    return Row(galleries[0].task.prompts[n].text, cells)
