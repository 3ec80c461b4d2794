"""Scenes -> pictures, with soft edges and shading; shapes are signed distance functions.

The distances follow https://iquilezles.org/articles/distfunctions2d.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .scene import Scene, Thing
from .world import COLOURS

Grid = NDArray[np.float32]

DEPTH = 0.16
"""How much darker a thing is on its far side than on the side to the light."""


def draw(scene: Scene, pixels: int) -> NDArray[np.uint8]:
    """[pixels, pixels, 3] uint8 sRGB. The same scene gives the same picture."""
    y, x = np.mgrid[0:pixels, 0:pixels].astype(np.float32) + 0.5
    picture = _background(scene, x / pixels - 0.5, y / pixels - 0.5)
    for thing in scene.things:
        cover = coverage(thing, x, y)[..., None]
        picture += cover * (_surface(thing, scene.light, x, y) - picture)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def coverage(thing: Thing, x: Grid, y: Grid) -> Grid:
    """How much of each pixel the thing covers, 0 to 1; x, y: the pixels' centres."""
    turn = np.deg2rad(np.float32(thing.angle))
    dx, dy = x - np.float32(thing.x), y - np.float32(thing.y)
    u = np.cos(turn) * dx + np.sin(turn) * dy
    v = np.cos(turn) * dy - np.sin(turn) * dx
    distance = DISTANCES[thing.shape](u, v, np.float32(thing.radius))
    cover: Grid = np.clip(0.5 - distance, 0, 1).astype(np.float32)
    return cover


def _background(scene: Scene, x: Grid, y: Grid) -> Grid:
    turn = np.deg2rad(scene.slope)
    along = (0.5 + 0.7 * (x * np.cos(turn) + y * np.sin(turn)))[..., None]
    start, end = (np.asarray(s, np.float32) for s in scene.shades)
    picture: Grid = (start + along * (end - start)).astype(np.float32)
    if scene.texture:
        grain = np.random.default_rng(scene.grain).standard_normal((*x.shape, 1), np.float32)
        picture += np.float32(scene.texture) * grain
    return picture


def _surface(thing: Thing, light: float, x: Grid, y: Grid) -> Grid:
    turn = np.deg2rad(light)
    along = (x - thing.x) * np.cos(turn) + (y - thing.y) * np.sin(turn)
    shade = 1 - DEPTH * (0.5 - 0.5 * along / thing.radius)
    colour = np.asarray(COLOURS[thing.colour], np.float32)
    lit: Grid = (shade[..., None] * colour).astype(np.float32)
    return lit


def _circle(u: Grid, v: Grid, r: np.float32) -> Grid:
    return np.hypot(u, v) - 0.95 * r


def _square(u: Grid, v: Grid, r: np.float32) -> Grid:
    return np.maximum(abs(u), abs(v)) - 0.86 * r


def _triangle(u: Grid, v: Grid, r: np.float32) -> Grid:
    # Base down. Its centre of mass lies a little above the middle of its box.
    side = abs(u) * np.float32(0.866) - 0.5 * v
    distance: Grid = np.maximum(side - 0.62 * r, v - 0.62 * r)
    return distance


def _cross(u: Grid, v: Grid, r: np.float32) -> Grid:
    long, wide = 1.02 * r, 0.34 * r
    across = np.maximum(abs(u) - long, abs(v) - wide)
    along = np.maximum(abs(u) - wide, abs(v) - long)
    distance: Grid = np.minimum(across, along)
    return distance


def _ring(u: Grid, v: Grid, r: np.float32) -> Grid:
    return abs(np.hypot(u, v) - 0.76 * r) - 0.26 * r


def _diamond(u: Grid, v: Grid, r: np.float32) -> Grid:
    return (abs(u) * 1.25 + abs(v) * 0.85 - r) / np.float32(1.51)


def _star(u: Grid, v: Grid, r: np.float32) -> Grid:
    # The angle is folded into half of one of five points; then it is the distance to an edge.
    fifth = np.float32(2 * np.pi / 5)
    angle = np.arctan2(u, -v)
    angle = abs((angle + fifth / 2) % fifth - fifth / 2)
    far = np.hypot(u, v)
    px, py = far * np.cos(angle), far * np.sin(angle)
    inner = np.float32(0.48)
    ix, iy = 1.12 * r * inner * np.cos(fifth / 2), 1.12 * r * inner * np.sin(fifth / 2)
    ex, ey = ix - 1.12 * r, iy
    distance: Grid = ((px - 1.12 * r) * ey - py * ex) / np.hypot(ex, ey)
    return distance


DISTANCES = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
    "ring": _ring,
    "diamond": _diamond,
    "star": _star,
}
"""[..] float32: distance of each point to the shape's edge in pixels, negative inside."""
