"""Captions: everything that can be said in a world, every way to say it, and what is held out."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import numpy as np

from .scene import Meaning, Prompt, Want
from .world import CATEGORIES, NUMBERS, RELATIONS, SIZES, TONES, World

SPLITS = {"test": 0.2, "dev": 0.1}
"""Shares of the meanings that no training caption ever has."""

OPPOSITES = {"left": "right", "right": "left", "above": "below", "below": "above"}

RELATION_WORDS = {
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}


def meanings(world: World, category: str) -> Iterator[Meaning]:
    """Everything that captions of one category can say."""
    return EVERYTHING[category](world)


def _single_object(world: World) -> Iterator[Meaning]:
    for shape, size, tone in itertools.product(world.shapes, (None, *SIZES), (None, *TONES)):
        yield Meaning("single_object", (Want(shape, size=size),), tone=tone)


def _two_objects(world: World) -> Iterator[Meaning]:
    sizes = ((None, None), *itertools.product(SIZES, repeat=2))
    for (a, b), (c, d) in itertools.product(itertools.permutations(world.shapes, 2), sizes):
        yield Meaning("two_objects", (Want(a, size=c), Want(b, size=d)))


def _counting(world: World) -> Iterator[Meaning]:
    numbers = range(2, world.most + 1)
    for n, shape, colour in itertools.product(numbers, world.shapes, (None, *world.colours)):
        yield Meaning("counting", (Want(shape, colour, count=n),))


def _colors(world: World) -> Iterator[Meaning]:
    for shape, colour, size in itertools.product(world.shapes, world.colours, (None, *SIZES)):
        yield Meaning("colors", (Want(shape, colour, size),))


def _position(world: World) -> Iterator[Meaning]:
    pairs = itertools.permutations(world.shapes, 2)
    colours = [(None, None), *itertools.product(world.colours, repeat=2)]
    for (a, b), relation, (c, d) in itertools.product(pairs, RELATIONS, colours):
        yield Meaning("position", (Want(a, c), Want(b, d)), relation)


def _color_attribution(world: World) -> Iterator[Meaning]:
    pairs = itertools.permutations(world.shapes, 2)
    for (a, b), (c, d) in itertools.product(pairs, itertools.permutations(world.colours, 2)):
        yield Meaning("color_attribution", (Want(a, c), Want(b, d)))


EVERYTHING = {
    "single_object": _single_object,
    "two_objects": _two_objects,
    "counting": _counting,
    "colors": _colors,
    "position": _position,
    "color_attribution": _color_attribution,
}


def split_of(meaning: Meaning) -> str:
    """`train`, `dev` or `test`, by a hash of what is said, so that it never depends on a seed.

    A single thing is held out only where its size and background are said too: there are too few
    shapes to hide one. What can be said from two sides, as left and right, is held out only where
    both are.
    """
    if meaning.category == "single_object" and (not meaning.tone or not meaning.wants[0].size):
        return "train"
    if meaning.relation is None:
        return _draw_split(meaning)
    splits = {_draw_split(meaning), _draw_split(converse(meaning))}
    if "train" in splits:
        return "train"
    return "test" if splits == {"test"} else "dev"


def converse(meaning: Meaning) -> Meaning:
    """The same relation, seen from the other thing."""
    assert meaning.relation
    relation = OPPOSITES[meaning.relation]
    return replace(meaning, wants=meaning.wants[::-1], relation=relation)


def _draw_split(meaning: Meaning) -> str:
    wants = meaning.wants if meaning.relation else sorted(repr(w) for w in meaning.wants)
    text = repr((meaning.category, wants, meaning.relation, meaning.tone))
    x = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64
    for name, share in SPLITS.items():
        if x < share:
            return name
        x -= share
    return "train"


@cache
def meanings_of(world: World, category: str, split: str) -> tuple[Meaning, ...]:
    """The meanings of one category that belong to a split."""
    return tuple(m for m in meanings(world, category) if split_of(m) == split)


def phrasings(meaning: Meaning) -> tuple[str, ...]:
    """Every caption that says this; all words are lower case, with spaces between them."""
    first, *rest = (_noun_phrase(w) for w in meaning.wants)
    joins = RELATION_WORDS[meaning.relation] if meaning.relation else ("and", "with")
    bodies = [f"{first} {join} {rest[0]}" for join in joins] if rest else [first]
    place = f" on a {meaning.tone} background" if meaning.tone else ""
    return tuple(f"{start}{body}{place}" for body in bodies for start in ("", "a photo of "))


def _noun_phrase(want: Want) -> str:
    words = [w for w in (want.size, want.colour) if w]
    if want.count == 1:
        article = "an" if (*words, want.shape)[0][0] in "aeiou" else "a"
        return " ".join((article, *words, want.shape))
    plural = want.shape + ("es" if want.shape.endswith("s") else "s")
    return " ".join((NUMBERS[want.count], *words, plural))


def vocabulary(world: World) -> tuple[str, ...]:
    """Every word of every caption, sorted."""
    said = (text for c in CATEGORIES for m in meanings(world, c) for text in phrasings(m))
    return tuple(sorted({word for text in said for word in text.split()}))


def draw_prompt(world: World, rng: np.random.Generator, *, split: str = "train") -> Prompt:
    """A random caption: the category first, then what it says, then how."""
    category = CATEGORIES[rng.integers(len(CATEGORIES))]
    choices = meanings_of(world, category, split)
    meaning = choices[rng.integers(len(choices))]
    texts = phrasings(meaning)
    return Prompt(texts[rng.integers(len(texts))], meaning)


def prompts(world: World, split: str, *, per_category: int, seed: int = 0) -> tuple[Prompt, ...]:
    """The fixed prompts of a split: the same number in every category.

    Every meaning comes once before any comes again, in another wording where there is one.
    """
    chosen = []
    for category in CATEGORIES:
        rng = np.random.default_rng([seed, CATEGORIES.index(category)])
        pool = meanings_of(world, category, split)
        order = rng.permutation(len(pool))
        turns = [rng.permutation(len(phrasings(m))) for m in pool]
        for i in range(per_category):
            which, turn = order[i % len(pool)], i // len(pool)
            texts = phrasings(pool[which])
            text = texts[turns[which][turn % len(texts)]]
            chosen.append(Prompt(text, pool[which]))
    return tuple(chosen)
