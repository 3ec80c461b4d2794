"""A caption's meaning -> a scene: what is said is kept, what is not said is as it usually is.

Things without a colour have their usual one, things without a size are neither small nor big, and
two things without a relation stand as they are read, the first on the left. Background, light, and
where exactly a thing lies are drawn at random.
"""

from __future__ import annotations

import numpy as np

from .scene import Meaning, Scene, Thing, Want
from .world import TONES, USUAL, World

NEAR, FAR, MIDDLE = 0.26, 0.74, 0.5
"""Places of things, as shares of the picture's side."""

PLACES = {
    "left": ((NEAR, MIDDLE), (FAR, MIDDLE)),
    "right": ((FAR, MIDDLE), (NEAR, MIDDLE)),
    "above": ((MIDDLE, NEAR), (MIDDLE, FAR)),
    "below": ((MIDDLE, FAR), (MIDDLE, NEAR)),
}
"""Where the first and the second of two things lie: (x, y) each."""

CORNERS = ((NEAR, NEAR), (FAR, NEAR), (NEAR, FAR), (FAR, FAR))
TOP_CORNERS = ((NEAR, NEAR), (FAR, NEAR), (MIDDLE, FAR))


def compose(meaning: Meaning, world: World, rng: np.random.Generator) -> Scene:
    """A scene of which the caption is true."""
    places = _places(len(meaning.each), meaning.relation)
    things = [_thing(w, at, world, rng) for w, at in zip(meaning.each, places, strict=True)]
    tone = meaning.tone or tuple(TONES)[rng.integers(len(TONES))]
    shades = (_shade(TONES[tone], rng), _shade(TONES[tone], rng))
    slope, light = (float(a) for a in rng.uniform(0, 360, 2))
    grain = int(rng.integers(2**31))
    return Scene(tuple(things), tone, shades, slope, light, world.texture, grain)


def _places(count: int, relation: str | None) -> list[tuple[float, float]]:
    if count == 1:
        return [(MIDDLE, MIDDLE)]
    if count == 2:
        return list(PLACES[relation or "left"])
    if count == 3:
        return list(TOP_CORNERS)
    return [*CORNERS, (MIDDLE, MIDDLE)][:count]


def _thing(want: Want, place: tuple[float, float], world: World, rng: np.random.Generator) -> Thing:
    x, y = (world.pixels * p + rng.uniform(-world.jitter, world.jitter) for p in place)
    middle = (world.small + world.big) / 2
    radius = {"small": world.small, "big": world.big, None: middle}[want.size]
    radius *= rng.uniform(0.95, 1.05)
    angle = rng.uniform(-world.turn, world.turn) if world.turn else 0.0
    colour = want.colour or USUAL[want.shape]
    return Thing(want.shape, colour, want.size, float(x), float(y), float(radius), float(angle))


def _shade(level: int, rng: np.random.Generator) -> tuple[float, float, float]:
    r, g, b = level + rng.uniform(-14, 14) + rng.uniform(-5, 5, 3)
    return float(r), float(g), float(b)
