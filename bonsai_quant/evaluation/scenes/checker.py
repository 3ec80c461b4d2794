"""Does a picture show what its caption says? In the spirit of GenEval, with an exact judge.

Strict: the picture holds exactly the things that the caption names, and nothing else.

score = (mean of shape x colour over the things) x relation x size x background, 0 to 1:

    shape       overlap with the wanted template: 0 at `NO_SHAPE` and below, 1 at `FULL_SHAPE`
    colour      likeness to the wanted colour, or where none is said, to the nearest one
    mean        over as many as there are wanted or found, whichever is more; 0 for those too few
                or too many
    relation    1 where it holds; less by how far it does not, 0 from `world.small` pixels on
    size        1 on the right side of the middle between small and big, down to 0 at the wrong one
    background  1 for the right tone, down to 0 at the wrong one
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .find import Found, look
from .scene import Meaning, Want
from .segment import Background
from .world import TONES, World

FAILURES = ("nothing", "count", "shape", "colour", "position", "size", "background")
"""What can be wrong; a judgement names the first of them that applies."""

NO_SHAPE, FULL_SHAPE = 0.7, 0.93
TOO_MANY = 2
"""How many things too many are still looked at; the rest only lower the score."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was found in a picture, and whether that is what the caption asks for.

    failure: one of `FAILURES`, None where the picture passed.  score: 0 to 1.
    """

    passed: bool
    score: float
    failure: str | None
    found: tuple[Found, ...]


@dataclass(frozen=True, slots=True)
class _Pairing:
    """Found things in the order of the wanted ones, and what is right about them."""

    shape: bool
    colour: bool
    position: bool
    size: bool
    score: float

    @property
    def rank(self) -> tuple[bool, bool, bool, bool, float]:
        """Pairings are compared by what fails first, then by score."""
        return self.shape, self.colour, self.position, self.size, self.score


def check(image: NDArray[np.uint8], meaning: Meaning, world: World) -> Judgement:
    """Judge one picture. image: [h, w, 3] uint8 sRGB."""
    background, found = look(image, world)
    if not found:
        return Judgement(False, 0.0, "nothing", found)
    wanted = meaning.each
    best = _best_pairing(wanted, found, meaning, world)
    tone, tone_score = _tone(background, meaning.tone)
    rights = {
        "count": len(found) == len(wanted),
        "shape": best.shape,
        "colour": best.colour,
        "position": best.position,
        "size": best.size,
        "background": tone,
    }
    failure = next((name for name, right in rights.items() if not right), None)
    return Judgement(failure is None, best.score * tone_score, failure, found)


def _best_pairing(
    wanted: Sequence[Want], found: Sequence[Found], meaning: Meaning, world: World
) -> _Pairing:
    """The best of all assignments of found things to wanted ones."""
    most = max(len(wanted), len(found))
    judged = (_judge(pairs, meaning, world, most) for pairs in _pairings(wanted, found))
    return max(judged, key=lambda pairing: pairing.rank)


def _pairings(wanted: Sequence[Want], found: Sequence[Found]) -> Iterator[list[tuple[Want, Found]]]:
    """Every way to give found things to the wanted ones; those stay in the caption's order."""
    likely = sorted(found, key=lambda f: -f.fit)[: len(wanted) + TOO_MANY]
    if len(set(wanted)) == 1:  # all are alike: any order is as good
        yield list(zip(wanted, likely, strict=False))
    elif len(likely) < len(wanted):
        for some in itertools.permutations(wanted, len(likely)):
            yield list(zip(some, likely, strict=True))
    else:
        for order in itertools.permutations(likely, len(wanted)):
            yield list(zip(wanted, order, strict=True))


def _judge(
    pairs: Sequence[tuple[Want, Found]], meaning: Meaning, world: World, most: int
) -> _Pairing:
    position, relation_score = _relation([f for _, f in pairs], meaning, world)
    sizes = [_size(f, want.size, world) for want, f in pairs]
    score = sum(_likeness(want, f) for want, f in pairs) / most
    return _Pairing(
        shape=all(f.shape == want.shape for want, f in pairs),
        colour=all(want.colour in (None, f.colour) for want, f in pairs),
        position=position,
        size=all(right for right, _ in sizes),
        score=score * relation_score * min(s for _, s in sizes),
    )


def _likeness(want: Want, found: Found) -> float:
    shape = (found.fits[want.shape] - NO_SHAPE) / (FULL_SHAPE - NO_SHAPE)
    colour = found.closeness[want.colour] if want.colour else max(found.closeness.values())
    return _share(shape) * colour


def _relation(found: Sequence[Found], meaning: Meaning, world: World) -> tuple[bool, float]:
    """Whether the first lies clearly on its side of the second, and further so than across."""
    if meaning.relation is None:
        return True, 1.0
    if len(found) < 2:
        return False, 0.0
    dx, dy = found[0].x - found[1].x, found[0].y - found[1].y
    along, across = {
        "left": (-dx, dy),
        "right": (dx, dy),
        "above": (-dy, dx),
        "below": (dy, dx),
    }[meaning.relation]
    lead = min(along - world.small, along - abs(across))
    return lead >= 0, _share(1 + lead / world.small)


def _size(found: Found, size: str | None, world: World) -> tuple[bool, float]:
    """Big things are larger than the middle between both radii, small ones are not."""
    if size is None:
        return True, 1.0
    share = (found.radius - world.small) / (world.big - world.small)
    share = share if size == "big" else 1 - share
    return share > 0.5, _share(2 * share)


def _tone(background: Background, tone: str | None) -> tuple[bool, float]:
    """The right tone is nearer than any other."""
    if tone is None:
        return True, 1.0
    levels = [level for name, level in TONES.items() if name != tone]
    other = min(levels, key=lambda level: abs(level - background.grey))
    share = (background.grey - other) / (TONES[tone] - other)
    return share > 0.5, _share(2 * share)


def _share(value: float) -> float:
    return min(1.0, max(0.0, value))
