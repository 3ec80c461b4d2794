"""The pictures that a model paints for fixed captions, painted and judged batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bonsai_quant.core.progress import Progress, no_progress
from bonsai_quant.core.requirements import LOOK, RUN, require
from bonsai_quant.packs.pipeline import Pipeline

from .judging import Judged, Marks, judge_batch, marks_of, other_captions, shrink
from .task import Task, scenery

BATCH = 32
"""Pictures painted at once."""


@dataclass(frozen=True, slots=True)
class Gallery:
    """How one model did a task. The pictures themselves are not kept, but for some to show.

    chance: marks of the same pictures, each held against the caption of another prompt; None when
    nobody asked, or all prompts say the same.  shown: [side, side, 3] uint8 by prompt and image.
    """

    name: str
    task: Task
    marks: Marks
    chance: Marks | None
    shown: dict[tuple[int, int], NDArray[np.uint8]]


class Keeper(Protocol):
    """Where batches are kept, by the index of their first picture."""

    def find(self, at: int, n: int) -> Judged | None:
        """The batch of n pictures that begins there, if it is kept."""

    def add(self, at: int, judged: Judged) -> None:
        """Keep a batch."""


def check_packages() -> None:
    """Refuse to begin without what painting and judging need."""
    require((*RUN, *LOOK), "run")


def paint_gallery(
    pipeline: Pipeline,
    task: Task,
    *,
    batch: int = BATCH,
    chance: bool = True,
    keeper: Keeper | None = None,
    progress: Progress = no_progress,
) -> Gallery:
    """Paint every picture of the task and judge it. progress: counts pictures.

    chance: judge them by other captions, too.  keeper: has batches of an earlier run, and gets new
    ones.
    """
    check_packages()
    from bonsai_quant.runners.torch.dense import open_pipeline, paint_dense

    world, settings = scenery(task.benchmark), task.benchmark.settings
    pipe, texts, seeds = None, task.texts, task.seeds
    others = other_captions(task) if chance else None
    batches = []
    progress.phase(f"painting with {pipeline.name}", len(texts), "pictures")
    for at in range(0, len(texts), batch):
        part = slice(at, at + batch)
        judged = keeper.find(at, len(texts[part])) if keeper else None
        if judged is None:
            pipe = pipe or open_pipeline(pipeline.name, pipeline=str(pipeline.folder))
            painted = paint_dense(pipe, texts[part], seeds[part], settings, batch=batch)
            judged = judge_batch(shrink(painted, world.pixels), task, others, at)
            if keeper:
                keeper.add(at, judged)
        batches.append(judged)
        progress.advance(len(texts[part]))
    return hang(pipeline.name, task, batches)


def hang(name: str, task: Task, batches: Sequence[Judged]) -> Gallery:
    """The batches of a whole task as one gallery."""
    own = marks_of([m for b in batches for m in b.own], task)
    chance, others = None, other_captions(task)
    if others is not None and all(b.chance is not None for b in batches):
        by_picture = marks_of([m for b in batches for m in b.chance or ()], task)
        # From the order of the pictures into that of the captions that judged them.
        k, donors = np.arange(task.images), np.argsort(others, axis=0)
        chance = Marks(
            by_picture.passed[donors, k],
            by_picture.continuous[donors, k],
            by_picture.failures[donors, k],
        )
    shown = {divmod(i, task.images): p for b in batches for i, p in b.shown.items()}
    return Gallery(name, task, own, chance, shown)
