"""The prompts that calibration and distillation use, and those kept aside to watch them with."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np

from bonsai_quant.core.errors import BadInput, UsageError
from bonsai_quant.evaluation.scenes.grammar import meanings_of, phrasings, prompts
from bonsai_quant.evaluation.scenes.scene import Prompt
from bonsai_quant.evaluation.scenes.world import CATEGORIES, World
from bonsai_quant.evaluation.task import scenery
from bonsai_quant.packs.pipeline import Pipeline
from bonsai_quant.packs.provenance_record import PromptsRecord
from bonsai_quant.runners.picture_settings import NAME as BENCHMARK
from bonsai_quant.runners.picture_settings import read_benchmark
from bonsai_quant.runners.prompts import SHIPPED, held_out, read_prompts

MOST_HELD = 64
DEV_PER_CATEGORY = 25


@dataclass(frozen=True, slots=True)
class Prompts:
    """used: to learn from.  held: to watch with, never learned from.

    captions: what `held` mean, where a checker can judge the pictures; else empty.
    """

    used: tuple[str, ...]
    held: tuple[str, ...]
    captions: tuple[Prompt, ...] = ()

    @property
    def sha256(self) -> str:
        """Of everything in it, in order."""
        text = "\n".join((*self.used, "", *self.held))
        return hashlib.sha256(text.encode()).hexdigest()


def choose_prompts(
    pipeline: Pipeline, file: str | Path | None, limit: int | None = None
) -> Prompts:
    """A file's lines; else training captions where the pipeline has a benchmark; else our list.

    limit: use this many of them at most.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"the number of prompts must be at least 1, not {limit}")
    benchmark = read_benchmark(pipeline.folder) if (pipeline.folder / BENCHMARK).exists() else None
    if file is None and benchmark is not None:
        world = scenery(benchmark)
        captions = prompts(world, "dev", per_category=DEV_PER_CATEGORY)
        used = tuple(training_captions(world))
        return Prompts(used[:limit], tuple(p.text for p in captions), captions)
    lines = list(dict.fromkeys(read_prompts(Path(file or SHIPPED))))
    if len(lines) < 2:
        raise BadInput("holds fewer than two prompts", where=str(file), hint="write one a line")
    held = held_out(lines)[:MOST_HELD] or lines[-1:]
    kept = [line for line in lines if line not in set(held)]
    return Prompts(tuple(kept[:limit]), tuple(held))


def prompts_record(prompts: Prompts, file: str | Path | None) -> PromptsRecord:
    """What a record says of them. file: the user's list, if it was one."""
    name = None if file is None else Path(file).name
    return PromptsRecord(number=len(prompts.used), sha256=prompts.sha256, file=name)


def training_captions(world: World, *, each: int = 600) -> list[str]:
    """As many training captions of each category, in turn; a category that has fewer repeats."""
    columns = []
    for i, category in enumerate(CATEGORIES):
        captions = [t for m in meanings_of(world, category, "train") for t in phrasings(m)]
        order = np.random.default_rng(i).permutation(len(captions))
        columns.append([captions[order[k % len(captions)]] for k in range(each)])
    return [t for turn in zip_longest(*columns) for t in turn]
