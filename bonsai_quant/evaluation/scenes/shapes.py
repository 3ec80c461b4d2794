"""Which shape a region has: its cover is laid over each shape of the world as `draw` draws it.

Centre and size of a template follow from the region's centre of mass and area. What is left to
search is small: the angle, where things are turned, and how soft the picture is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from .draw import coverage
from .scene import Thing
from .world import World

Plane = NDArray[np.float32]

SOFTNESS = (0.0, 0.9, 1.6)
"""Standard deviations of the blur under which a template is tried, in pixels of a small picture."""
SHARPEN = 1.5
"""How much steeper edges are made before they are compared, which evens out shading and noise."""
STEP = 4.0
"""Degrees between the angles that are tried."""
ROUND = ("circle", "ring")
"""Shapes that look the same at every angle."""


@dataclass(frozen=True, slots=True)
class Likeness:
    """How well one shape fits.

    x, y: its centre, radius: its size, in pixels of the patch.
    overlap: area shared with the template / area of both together, 0 to 1.
    """

    shape: str
    x: float
    y: float
    radius: float
    overlap: float


def compare(cover: Plane, world: World) -> tuple[Likeness, ...]:
    """Every shape of the world laid over a region, best first. cover: [h, w], 0 to 1."""
    sharp = sharpen(cover)
    area = float(sharp.sum())
    y, x = np.mgrid[0 : cover.shape[0], 0 : cover.shape[1]].astype(np.float32) + 0.5
    cx, cy = float((x * sharp).sum()) / area, float((y * sharp).sum()) / area
    found = []
    for shape in world.shapes:
        thing = Thing(shape, "", "", cx, cy, (area / unit_area(shape)) ** 0.5)
        found.append(_best(sharp, thing, world, x, y))
    return tuple(sorted(found, key=lambda fit: -fit.overlap))


def sharpen(cover: Plane) -> Plane:
    """Edges made steeper around the half, where the outline is."""
    half = np.float32(0.5)
    sharp: Plane = np.clip(np.float32(SHARPEN) * (cover - half) + half, 0, 1)
    return sharp


@cache
def unit_area(shape: str) -> float:
    """Area of a shape of radius 1."""
    radius = 100.0
    y, x = np.mgrid[0:300, 0:300].astype(np.float32) + 0.5
    return float(coverage(Thing(shape, "", "", 150, 150, radius), x, y).sum()) / radius**2


@cache
def blur(pixels: int, sigma: float) -> Plane:
    """[pixels, pixels] float32: the matrix that blurs a row; what leaves the picture is lost."""
    at = np.arange(pixels)
    weights = np.exp(-((at[:, None] - at) ** 2) / (2 * sigma**2))
    weights /= sigma * np.sqrt(2 * np.pi)
    return weights.astype(np.float32)


def _best(sharp: Plane, thing: Thing, world: World, x: Plane, y: Plane) -> Likeness:
    """The best angle for sharp edges, then the best softness."""
    template = coverage(thing, x, y)
    if world.turn and thing.shape not in ROUND:
        angles = np.arange(-world.turn, world.turn + STEP / 2, STEP).tolist()
        turned = (coverage(replace(thing, angle=angle), x, y) for angle in angles)
        template = max(turned, key=lambda cover: _overlap(sharp, cover))
    best = _overlap(sharp, template)
    for sigma in SOFTNESS[1:]:
        spread = sigma * world.pixels / 64
        rows, columns = (blur(n, spread) for n in template.shape)
        best = max(best, _overlap(sharp, (rows @ template @ columns).astype(np.float32)))
    return Likeness(thing.shape, thing.x, thing.y, thing.radius, best)


def _overlap(sharp: Plane, template: Plane) -> float:
    other = sharpen(template)
    return float(np.minimum(sharp, other).sum()) / float(np.maximum(sharp, other).sum())
