"""A picture -> the things in it, by measuring alone: nothing is learned and nothing is random."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .segment import Background, Region, palette, segment, splits
from .shapes import compare
from .world import World

MIN_FIT = 0.86
"""A region that shares less than this with every template has no shape.

Right shapes share 0.90 and more, and 0.87 under a blur of 1.5 pixels of a small picture; a sharp
diamond and a fat cross share 0.84 and 0.85 with a circle.
"""
MIN_MARGIN = 0.02
"""Nor has one that two templates fit almost equally well, as what is half circle, half square.

Right shapes have 0.12 and more, and 0.03 under that blur.
"""
OFF_COLOUR = 30.0
"""Lab distance at which a colour is no longer like another at all."""
LIGHTNESS = 0.5
"""Weight of L in that distance: shading changes it, hue and chroma make the name."""


@dataclass(frozen=True, slots=True)
class Found:
    """One thing seen in a picture.

    shape, colour: None where it is unclear.  x, y: its centre, radius: its size, in pixels.
    area: in pixels.  fit: overlap with the best template, margin: how much less the second has.
    fits: overlap with every shape.  closeness: likeness to every colour. All from 0 to 1.
    """

    shape: str | None
    colour: str | None
    x: float
    y: float
    area: float
    radius: float
    fit: float
    margin: float
    fits: Mapping[str, float]
    closeness: Mapping[str, float]


def find_things(image: NDArray[np.uint8], world: World) -> tuple[Found, ...]:
    """Everything that stands out from the background. image: [h, w, 3] uint8 sRGB."""
    return look(image, world)[1]


def look(image: NDArray[np.uint8], world: World) -> tuple[Background, tuple[Found, ...]]:
    """The background and the things before it."""
    background, regions = segment(image, world)
    return background, tuple(found for region in regions for found in _names(region, world))


def _names(region: Region, world: World) -> list[Found]:
    """What a region is: one thing, or where it is no shape itself but its parts are, several."""
    whole = _name(region, world)
    if whole.shape is None:
        for parts in splits(region, world):
            named = [_name(part, world) for part in parts]
            if all(part.shape for part in named):
                return named
    return [whole]


def _name(region: Region, world: World) -> Found:
    first, second, *_ = likenesses = compare(region.cover, world)
    margin = first.overlap - second.overlap
    clear = first.overlap >= MIN_FIT and margin >= MIN_MARGIN
    closeness = _closeness(region, world)
    colour = max(closeness, key=lambda name: closeness[name])
    return Found(
        shape=first.shape if clear else None,
        colour=colour if closeness[colour] > 0 else None,
        x=region.left + first.x,
        y=region.top + first.y,
        area=float(region.cover.sum()),
        radius=first.radius,
        fit=first.overlap,
        margin=margin,
        fits={f.shape: f.overlap for f in likenesses},
        closeness=closeness,
    )


def _closeness(region: Region, world: World) -> dict[str, float]:
    """1 for a colour as it is drawn, falling with distance to 0 at `OFF_COLOUR`."""
    weights = np.array([LIGHTNESS, 1, 1], np.float32)
    off = np.sqrt((((palette(world) - region.lab) * weights) ** 2).sum(-1))
    values = np.clip(1 - (off / OFF_COLOUR) ** 2, 0, 1).tolist()
    return dict(zip(world.colours, values, strict=True))
