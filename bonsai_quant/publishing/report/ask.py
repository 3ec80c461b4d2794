"""Which pictures a report shows: the user's own prompts, or some that a stated rule chooses."""

from __future__ import annotations

from collections.abc import Sequence

from bonsai_quant.core.errors import UsageError
from bonsai_quant.evaluation.scenes.grammar import prompts as captions
from bonsai_quant.evaluation.task import scenery
from bonsai_quant.packs.pipeline import Pipeline
from bonsai_quant.runners.generate import choose_settings
from bonsai_quant.runners.picture_settings import NAME, read_benchmark
from bonsai_quant.runners.prompts import MAX_SEED, check_prompts, held_out, shipped_prompts

from .records import Asked, Scenes

N_GENERAL = 4
MOST = 24
"""Prompts on a page: all pictures are inside it."""


def ask(
    pipeline: Pipeline, prompts: Sequence[str] = (), seed: int = 0, size: str | None = None
) -> Asked:
    """What to paint with a pipeline, and with every pack beside it.

    prompts: the user's; else captions that the checker can judge where the pipeline has a
    benchmark, else general ones.  seed: of the first picture; each next one has one more.
    size: WIDTHxHEIGHT [the pipeline's].
    """
    if not 0 <= seed <= MAX_SEED - MOST:
        raise UsageError(f"seed {seed} is not between 0 and 2^63 - {MOST + 1}")
    scenes = None
    if prompts:
        texts, rule = check_prompts(prompts), "The prompts are the user's own."
    elif (pipeline.folder / NAME).is_file():
        world = scenery(read_benchmark(pipeline.folder))
        scenes = Scenes(captions(world, "test", per_category=1), world)
        texts = [p.text for p in scenes.prompts]
        rule = (
            "Nobody chose the captions: they are the first of each category of the score, "
            "and were held out of training."
        )
    else:
        texts = held_out(shipped_prompts())[:N_GENERAL]
        rule = (
            f"Nobody chose the prompts: they are the first {len(texts)} of those that "
            "training holds out of the prompts that come with the program."
        )
    if len(texts) > MOST:
        raise UsageError(f"{len(texts)} prompts; a report shows at most {MOST}")
    settings = choose_settings(pipeline, size, None)
    seeds = tuple(seed + i for i in range(len(texts)))
    return Asked(tuple(texts), seeds, settings, rule, scenes)
