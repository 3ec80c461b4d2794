"""The pictures that a model paints for fixed captions, and the checker's judgement of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bonsai_quant.core.errors import BadInput, unknown
from bonsai_quant.core.progress import Progress, no_progress
from bonsai_quant.core.requirements import LOOK, RUN, require
from bonsai_quant.evaluation.scenes.grammar import SPLITS, prompts
from bonsai_quant.evaluation.scenes.scene import Prompt
from bonsai_quant.evaluation.scenes.world import CATEGORIES, WORLDS, World
from bonsai_quant.packs.pipeline import Pipeline
from bonsai_quant.runners.picture_settings import NAME, Benchmark

BATCH = 32
"""Pictures painted at once."""


@dataclass(frozen=True, slots=True)
class Task:
    """What to paint: every prompt `images` times, each time from other noise.

    prompts: sorted by category, the same number in each.  seed: of the noise alone.
    """

    benchmark: Benchmark
    split: str
    prompts: tuple[Prompt, ...]
    images: int
    seed: int

    @property
    def per_category(self) -> int:
        """Prompts in each category."""
        return len(self.prompts) // len(CATEGORIES)

    @property
    def texts(self) -> list[str]:
        """The caption of every picture, in order."""
        return [p.text for p in self.prompts for _ in range(self.images)]

    @property
    def seeds(self) -> list[int]:
        """The seed of every picture, in order: that of a prompt does not depend on how many are."""
        return [
            picture_seed(self.seed, c, i, k)
            for c in range(len(CATEGORIES))
            for i in range(self.per_category)
            for k in range(self.images)
        ]


@dataclass(frozen=True, slots=True)
class Marks:
    """The checker's judgement: [prompts, images] each.

    continuous: 0 to 1.  failures: the checker's word for what is wrong, "" where nothing is.
    """

    passed: NDArray[np.bool_]
    continuous: NDArray[np.float64]
    failures: NDArray[np.str_]


@dataclass(frozen=True, slots=True)
class Gallery:
    """One model's pictures for a task. pictures: [prompts, images, side, side, 3] uint8."""

    name: str
    task: Task
    pictures: NDArray[np.uint8]
    marks: Marks


def scenery(benchmark: Benchmark) -> World:
    """The world of a pipeline: what its captions and pictures are about."""
    if benchmark.world not in WORLDS:
        raise BadInput(
            f"world: no world {benchmark.world[:80]!r}; there are {', '.join(WORLDS)}",
            where=NAME,
            hint="correct the file",
        )
    return WORLDS[benchmark.world]


def picture_seed(seed: int, category: int, prompt: int, image: int) -> int:
    """63 bits for a picture's generator, unrelated to those of every other picture."""
    state = np.random.SeedSequence([seed, category, prompt, image]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def make_task(benchmark: Benchmark, split: str, per_category: int, images: int, seed: int) -> Task:
    """The first prompts of a split, which are the same for every model, seed and number."""
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    chosen = prompts(scenery(benchmark), split, per_category=per_category)
    return Task(benchmark, split, chosen, images, seed)


def check_packages() -> None:
    """Refuse to begin without what painting and judging need."""
    require((*RUN, *LOOK), "run")


def paint_gallery(
    pipeline: Pipeline, task: Task, *, batch: int = BATCH, progress: Progress = no_progress
) -> Gallery:
    """Paint every picture of the task and judge it. progress: counts pictures."""
    check_packages()
    from bonsai_quant.runners.torch.dense import open_pipeline, paint_dense

    world, settings = scenery(task.benchmark), task.benchmark.settings
    pipe = open_pipeline(pipeline.name, pipeline=str(pipeline.folder))
    texts, seeds, batches = task.texts, task.seeds, []
    progress.phase(f"painting with {pipeline.name}", len(texts), "pictures")
    for at in range(0, len(texts), batch):
        part = slice(at, at + batch)
        painted = paint_dense(pipe, texts[part], seeds[part], settings, batch=batch)
        batches.append(shrink(painted, world.pixels))
        progress.advance(len(painted))
    pictures = np.concatenate(batches)
    pictures = pictures.reshape(len(task.prompts), task.images, *pictures.shape[1:])
    return Gallery(pipeline.name, task, pictures, judge(pictures, task.prompts, world))


def shrink(pictures: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """[n, h, w, 3] -> [n, side, side, 3]; each pixel is the mean of those it covers."""
    if pictures.shape[1:3] == (side, side):
        return pictures
    from PIL import Image

    box = Image.Resampling.BOX
    return np.stack([np.asarray(Image.fromarray(p).resize((side, side), box)) for p in pictures])


def judge(pictures: NDArray[np.uint8], asked: Sequence[Prompt], world: World) -> Marks:
    """pictures: [prompts, images, side, side, 3]; each is judged by its row's prompt."""
    from bonsai_quant.evaluation.scenes.checker import check

    judgements = [
        [check(p, prompt.meaning, world) for p in row]
        for row, prompt in zip(pictures, asked, strict=True)
    ]
    return Marks(
        np.array([[j.passed for j in row] for row in judgements], np.bool_),
        np.array([[j.score for j in row] for row in judgements], np.float64),
        np.array([[j.failure or "" for j in row] for row in judgements], np.str_),
    )


def other_prompts(asked: Sequence[Prompt], *seed: int) -> NDArray[np.int64] | None:
    """For each prompt the index of another one, of other meaning, and each index once.

    None when there is no such exchange, as with a single meaning.
    """
    meanings = [p.meaning for p in asked]
    rng = np.random.default_rng([*seed, len(asked)])
    donors = rng.permutation(len(asked))
    for _ in range(1000):
        bad = [i for i, d in enumerate(donors) if meanings[d] == meanings[i]]
        if not bad:
            return donors
        for i in bad:
            j = rng.integers(len(asked))
            donors[i], donors[j] = donors[j], donors[i]
    return None


def chance_marks(gallery: Gallery) -> Marks | None:
    """The marks of pictures that are judged by the caption of another prompt.

    A prompt's pictures come from as many other prompts, so that one lucky pair weighs little.
    """
    task, columns = gallery.task, []
    for k in range(task.images):
        donors = other_prompts(task.prompts, task.seed, k)
        if donors is None:
            return None
        columns.append(gallery.pictures[donors, k])
    return judge(np.stack(columns, axis=1), task.prompts, scenery(task.benchmark))
