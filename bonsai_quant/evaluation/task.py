"""What is painted when a model is scored: fixed captions, and a seed for every picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bonsai_quant.core.errors import BadInput, UsageError, unknown
from bonsai_quant.evaluation.scenes.grammar import SPLITS, prompts
from bonsai_quant.evaluation.scenes.scene import Prompt
from bonsai_quant.evaluation.scenes.world import CATEGORIES, WORLDS, World
from bonsai_quant.packs.pipeline import Pipeline
from bonsai_quant.runners.picture_settings import NAME, Benchmark, read_benchmark

MAX_PICTURES = 1_000_000


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
