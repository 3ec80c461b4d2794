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

from bonsai_quant.core.errors import UsageError
from bonsai_quant.core.progress import Progress, no_progress
from bonsai_quant.evaluation.scenes.world import CATEGORIES
from bonsai_quant.packs.manifest import conversion
from bonsai_quant.packs.pipeline import Pipeline, locate
from bonsai_quant.storage.small_file import write_file

from .bootstrap import Figure, Resampled, adjusted_ratio, ratio, resample
from .contact_sheet import check_png
from .examples import examples
from .gallery import BATCH, Gallery, Keeper, check_packages, paint_gallery
from .judging import Marks
from .kept import Kept, purpose
from .task import Task, task_for


@dataclass(frozen=True, slots=True)
class CategoryScore:
    """One category, or all ("overall").

    score: share of pictures passed.  continuous: mean of the checker's 0 to 1, which tells bad from
    worse.  failures: what was wrong, and in how many pictures.  interval: how that of the score was
    found, `bootstrap` or `wilson`.
    """

    name: str
    pictures: int
    score: Figure
    continuous: float
    failures: dict[str, int]
    prompts: int
    interval: str


@dataclass(frozen=True, slots=True)
class Retention:
    """What a pack keeps of a reference, in one category or overall.

    retention: score / reference's score.  chance: the score of pictures made for other captions;
    None when the prompts all say the same.  adjusted: (score - chance) / (reference's - chance).
    prompts: with fewer than `bootstrap.FEW` there is no interval.
    """

    name: str
    retention: Figure
    chance: float | None
    adjusted: Figure
    prompts: int


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
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Scored:
    """Paint `images` pictures of every prompt, judge them, and compare them with a reference's.

    place: a pack, a pipeline's folder, or a shipped model's name.  against: the reference, any of
    these.  pipeline: the other parts of a pack; by default its source's, else the reference's.
    split: `test`, or `dev` for choosing.  prompts: per category.  seed: of the noise.
    batch: pictures painted at once.  grid: a PNG to write, with examples.  progress: of pictures.
    out: a folder that keeps the judgements.  resume: go on with one, and paint what it lacks.
    overwrite: replace an earlier grid.
    """
    check_packages()
    if resume and out is None:
        raise UsageError("--resume continues a folder of judgements", hint="give -o FOLDER")
    if grid is not None:
        check_png(Path(grid), overwrite=overwrite)
    pipelines = find_pipelines(str(place), against, pipeline)
    task = task_for(pipelines, split=split, prompts=prompts, images=images, seed=seed)
    if batch < 1:
        raise UsageError(f"batch must be at least 1, not {batch}")
    galleries = _paint(pipelines, task, batch, out, resume, progress)
    if grid is not None:
        write_file(Path(grid), examples(galleries[::-1]), overwrite=overwrite)
    manifest = pipelines[0].pack.manifest if pipelines[0].pack else None
    result = compare(*galleries)
    if manifest is None:
        return result
    return replace(result, conversion=conversion(manifest), format=manifest.format)


def _paint(
    pipelines: list[Pipeline],
    task: Task,
    batch: int,
    out: str | Path | None,
    resume: bool,
    progress: Progress,
) -> list[Gallery]:
    """A gallery of each; what chance scores is told by the last one's pictures, the reference's."""

    def paint(i: int, keeper: Keeper | None) -> Gallery:
        chance = i == len(pipelines) - 1 > 0
        return paint_gallery(
            pipelines[i], task, batch=batch, chance=chance, keeper=keeper, progress=progress
        )

    if out is None:
        return [paint(i, None) for i in range(len(pipelines))]
    kept = Kept(Path(out))
    progress.phase("hashing the models")
    with kept.opened(purpose(pipelines, task, batch), resume=resume):
        return [paint(i, kept.of(i)) for i in range(len(pipelines))]


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


def compare(gallery: Gallery, reference: Gallery | None = None) -> Scored:
    """The scores of a gallery, and what it keeps of a reference's for the same task."""
    if reference is None:
        return Scored(gallery.task, _tally(gallery), None, ())
    assert gallery.task == reference.task
    return Scored(
        gallery.task,
        _tally(gallery),
        _tally(reference),
        _kept(gallery, reference, reference.chance),
    )


def _tally(gallery: Gallery) -> ModelScore:
    marks, n = gallery.marks, gallery.task.per_category
    slices = [slice(0, len(marks.passed))]
    slices += [slice(at, at + n) for at in range(0, len(marks.passed), n)]
    overall, *each = [
        CategoryScore(
            name,
            marks.passed[rows].size,
            sampled.share(),
            round(float(marks.continuous[rows].mean()), 6),
            _failures(marks, rows),
            sampled.n,
            sampled.interval,
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
            Retention(n, ratio(a, b), None, unknown, a.n)
            for n, a, b in zip(names, ours, theirs, strict=True)
        )
    return tuple(
        Retention(name, ratio(a, b), round(c.value, 6), adjusted_ratio(a, b, c), a.n)
        for name, a, b, c in zip(names, ours, theirs, _resampled(reference, chance), strict=True)
    )
