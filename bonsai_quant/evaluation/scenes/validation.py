"""How far the checker can be trusted: right pictures that got worse, and pictures that are wrong.

The pictures are drawn from captions of the test split, so what they show is known.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from .checker import Judgement, check
from .draw import draw
from .grammar import prompts
from .layout import CORNERS, FAR, MIDDLE, NEAR, compose
from .scene import Meaning, Scene, Thing
from .shapes import blur
from .world import CATEGORIES, TONES, World

Image = NDArray[np.uint8]
Random = np.random.Generator

BLURS = (0.5, 1.0, 1.5, 2.0)
NOISES = (5, 10, 20, 40)
QUALITIES = (90, 70, 50, 30)

FREE = (*CORNERS, (MIDDLE, MIDDLE), (MIDDLE, NEAR), (MIDDLE, FAR), (NEAR, MIDDLE), (FAR, MIDDLE))
"""Where a thing too many may be put, as shares of the picture's side."""


@dataclass(frozen=True, slots=True)
class Row:
    """What the checker said about one kind of picture. passed, score, named: 0 to 1.

    expected: the failure it should name, None where it should pass or where any will do.
    named: the share of all pictures for which it did.
    """

    name: str
    right: bool
    pictures: int
    passed: float
    score: float
    expected: str | None = None
    named: float | None = None


def validate(world: World, *, pictures: int, seed: int) -> tuple[Row, ...]:
    """One row for every way of making a picture worse, then one for every way of making it wrong.

    pictures: how many of each, the same number in all six categories; those of a wrong kind are
    fewer where it needs captions of a certain kind.
    """
    each = -(-pictures // len(CATEGORIES))
    said = [p.meaning for p in prompts(world, "test", per_category=each, seed=seed)]
    rngs = [np.random.default_rng([seed, i]) for i in range(len(said))]
    scenes = [compose(m, world, rng) for m, rng in zip(said, rngs, strict=True)]
    rows = []
    for name, worsen in degradations():
        drawn = (draw(s, world.pixels) for s in scenes)
        seen = (worsen(image, rng) for image, rng in zip(drawn, rngs, strict=True))
        judged = [check(i, m, world) for i, m in zip(seen, said, strict=True)]
        rows.append(_row(name, True, judged, None))
    for name, spoil, expected in MISTAKES:
        judged = []
        for meaning, scene, rng in zip(said, scenes, rngs, strict=True):
            wrong = spoil(meaning, scene, world, rng)
            if wrong is not None:
                judged.append(check(wrong, meaning, world))
        rows.append(_row(name, False, judged, expected))
    return tuple(rows)


def _row(name: str, right: bool, judged: list[Judgement], expected: str | None) -> Row:
    n = max(1, len(judged))
    passed, score = sum(j.passed for j in judged) / n, sum(j.score for j in judged) / n
    named = sum(j.failure == expected for j in judged) / n if expected else None
    return Row(name, right, len(judged), passed, score, expected, named)


def degradations() -> Iterator[tuple[str, Callable[[Image, Random], Image]]]:
    """Name and function of everything that makes a right picture worse."""
    yield "clean", lambda image, _: image
    for sigma in BLURS:
        yield f"blur, sigma {sigma:g} px", partial(blurred, sigma)
    for level in NOISES:
        yield f"noise, sigma {level} levels", partial(noisy, level)
    for quality in QUALITIES:
        yield f"JPEG, quality {quality}", partial(compressed, quality)


def blurred(sigma: float, image: Image, _: Random | None = None) -> Image:
    """Gaussian blur; sigma in pixels."""
    weights = blur(len(image), sigma)
    weights = weights / weights.sum(1, keepdims=True)  # nothing comes in over the edge
    columns = np.tensordot(weights, image.astype(np.float32), axes=(1, 0))
    both = np.tensordot(columns, weights, axes=(1, 1)).transpose(0, 2, 1)
    return np.rint(both).astype(np.uint8)


def noisy(sigma: float, image: Image, rng: Random) -> Image:
    """Gaussian noise on every channel of every pixel; sigma in levels of 255."""
    return np.clip(np.rint(image + rng.normal(0, sigma, image.shape)), 0, 255).astype(np.uint8)


def compressed(quality: int, image: Image, _: Random | None = None) -> Image:
    """Through JPEG and back, colours at half resolution."""
    from PIL import Image as pillow

    file = io.BytesIO()
    pillow.fromarray(image).save(file, "JPEG", quality=quality, subsampling=2)
    return np.array(pillow.open(file), np.uint8)


def swap_colours(meaning: Meaning, scene: Scene, world: World, rng: Random) -> Image | None:
    """Each of two things in the colour of the other, where both are said."""
    if len({want.colour for want in meaning.wants} - {None}) < 2:
        return None
    a, b = scene.things
    return _redraw(scene, world, replace(a, colour=b.colour), replace(b, colour=a.colour))


def change_colour(meaning: Meaning, scene: Scene, world: World, rng: Random) -> Image | None:
    """The first thing in a colour that the caption does not have."""
    if not meaning.wants[0].colour:
        return None
    first, *rest = scene.things
    others = [c for c in world.colours if c not in {want.colour for want in meaning.wants}]
    return _redraw(scene, world, replace(first, colour=str(rng.choice(others))), *rest)


def change_shape(meaning: Meaning, scene: Scene, world: World, rng: Random) -> Image | None:
    """The first thing in a shape that the caption does not have."""
    first, *rest = scene.things
    others = [s for s in world.shapes if s not in {want.shape for want in meaning.wants}]
    return _redraw(scene, world, replace(first, shape=str(rng.choice(others))), *rest)


def remove_one(meaning: Meaning, scene: Scene, world: World, rng: Random) -> Image | None:
    """One of several things left out."""
    if len(scene.things) < 2:
        return None
    gone = rng.integers(len(scene.things))
    return _redraw(scene, world, *(t for i, t in enumerate(scene.things) if i != gone))


def add_one(meaning: Meaning, scene: Scene, world: World, rng: Random) -> Image | None:
    """One more like the first thing, small, where there is most room for it."""
    places = [(world.pixels * x, world.pixels * y) for x, y in FREE]

    def room(place: tuple[float, float]) -> float:
        x, y = place
        return min(float(np.hypot(t.x - x, t.y - y)) - 1.2 * t.radius for t in scene.things)

    x, y = max(places, key=room)
    if room((x, y)) < 1.2 * world.small:
        return None
    more = replace(scene.things[0], x=x, y=y, radius=world.small)
    return _redraw(scene, world, *scene.things, more)


def mirror(meaning: Meaning, scene: Scene, world: World, rng: Random) -> Image | None:
    """Each of two things in the place of the other, where the relation is said."""
    if meaning.relation is None:
        return None
    a, b = scene.things
    return _redraw(scene, world, replace(a, x=b.x, y=b.y), replace(b, x=a.x, y=a.y))


def turn(meaning: Meaning, scene: Scene, world: World, rng: Random) -> Image | None:
    """Left becomes above and right below, or the other way round."""
    if meaning.relation is None:
        return None
    return _redraw(scene, world, *(replace(t, x=t.y, y=t.x) for t in scene.things))


def change_size(meaning: Meaning, scene: Scene, world: World, rng: Random) -> Image | None:
    """The first thing big instead of small or small instead of big, where that is said."""
    size = meaning.wants[0].size
    if size is None:
        return None
    first, *rest = scene.things
    radius = world.small if size == "big" else world.big
    return _redraw(scene, world, replace(first, radius=radius), *rest)


def change_tone(meaning: Meaning, scene: Scene, world: World, rng: Random) -> Image | None:
    """The other background, where one is said."""
    if meaning.tone is None:
        return None
    [level] = (level for tone, level in TONES.items() if tone != meaning.tone)
    shade = (float(level), float(level), float(level))
    return draw(replace(scene, shades=(shade, shade)), world.pixels)


def only_noise(meaning: Meaning, scene: Scene, world: World, rng: Random) -> Image | None:
    """Every value at random."""
    return rng.integers(0, 256, (world.pixels, world.pixels, 3), dtype=np.uint8)


def only_background(meaning: Meaning, scene: Scene, world: World, rng: Random) -> Image | None:
    """No thing at all."""
    return _redraw(scene, world)


def _redraw(scene: Scene, world: World, *things: Thing) -> Image:
    return draw(replace(scene, things=things), world.pixels)


MISTAKES = (
    ("colours swapped", swap_colours, "colour"),
    ("one colour wrong", change_colour, "colour"),
    ("one shape wrong", change_shape, "shape"),
    ("one thing missing", remove_one, "count"),
    ("one thing too many", add_one, "count"),
    ("relation mirrored", mirror, "position"),
    ("relation turned", turn, "position"),
    ("one size wrong", change_size, "size"),
    ("background wrong", change_tone, "background"),
    ("pure noise", only_noise, None),
    ("only background", only_background, "nothing"),
)
"""Name, function and expected failure; the function gives None where it does not apply."""
