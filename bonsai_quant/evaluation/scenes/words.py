"""Whether a prompt asks for what a model of a small world has never seen."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from bonsai_quant.packs.pipeline import Pipeline
from bonsai_quant.runners.picture_settings import NAME, read_benchmark

from .grammar import vocabulary
from .world import WORLDS, World

N_NAMED = 3
"""Words that are named; of more only the number is told."""


@cache
def _known(world: World) -> frozenset[str]:
    return frozenset(vocabulary(world))


def unknown_words(prompts: Sequence[str], world: World) -> list[str]:
    """Words, as they are written, that no caption of a world has; each once, in order."""
    words = dict.fromkeys(word for text in prompts for word in text.split())
    return [word for word in words if word not in _known(world)]


def warning(pipeline: Pipeline, prompts: Sequence[str]) -> str | None:
    """A line about words that a pipeline does not know; None for a pipeline without such limits.

    A pipeline with a benchmark.json was trained on the captions of its world alone.
    """
    if not (pipeline.folder / NAME).is_file():
        return None
    world = WORLDS.get(read_benchmark(pipeline.folder).world)
    if world is None or not (words := unknown_words(prompts, world)):
        return None
    named = ", ".join(repr(w[:40]) for w in words[:N_NAMED])
    more = f" and {len(words) - N_NAMED} more" if len(words) > N_NAMED else ""
    verb = "is not one of its words" if len(words) == 1 else "are not its words"
    return (
        f"{pipeline.folder.name} knows only coloured shapes ({', '.join(world.colours)}; "
        f"{', '.join(world.shapes)}): {named}{more} {verb}; "
        'try: "a red circle left of a blue square"'
    )
