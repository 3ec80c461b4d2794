"""A picture -> its background and the regions that stand out from it, each of one colour.

Everything is estimated from the picture itself: the background is a plane fitted to its border,
and what differs from that by more than `STANDS_OUT` belongs to a thing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from .lab import to_lab
from .masks import Mask, components, flood, grow, shrink
from .world import COLOURS, World

Plane = NDArray[np.float32]

STANDS_OUT = 20.0
"""Lab distance from the background from which a pixel may belong to a thing."""
FAINT = 30.0
"""Lab distance that a thing has to reach. The least of the world's colours: cyan on light, 37."""
SPECK = 0.35
"""Regions below this many small radii squared are ignored: 20 pixels where that radius is 7.5."""
SECOND_AREA, SECOND_SHARE = 0.7, 0.2
"""Small radii squared, and share of a region's contrast, that make a second colour another thing.
The least thing, a small cross, covers 2.1."""
APART = 0.5
"""Nor is there a second one if their means differ by less than this share of what they should:
then it is one thing in a colour between two."""
GREYISH = 12.0
"""Lab chroma, seen from the background, below which a pixel has no hue."""
MEAN_SHADE = 0.92
"""Brightness of a thing's middle, between its side to the light and its far side."""
NEVER_FLAT = 1e-3 * np.eye(3, dtype=np.float32)
"""Keeps the fit of the background defined when few pixels are left."""
RIM = 3
"""Pixels around a region that may still be partly covered."""


@dataclass(frozen=True, slots=True)
class Background:
    """What lies behind the things. srgb, lab: [h, w, 3] float32.  grey: mean level, 0 to 255."""

    srgb: Plane
    lab: Plane
    grey: float


@dataclass(frozen=True, slots=True)
class Region:
    """Pixels that belong together.

    cover: [h, w] float32, how much of each pixel is covered, 0 to 1.  left, top: where this patch
    lies in the picture, in pixels.  lab: [3], the mean colour of what is fully covered.
    """

    cover: Plane
    left: int
    top: int
    lab: Plane


@dataclass(frozen=True, slots=True)
class _Patch:
    """A part of the picture: lab is as it is, the others are differences from the background."""

    srgb: Plane
    lab: Plane
    change: Plane
    smooth: Plane

    def crop(self, mask: Mask) -> tuple[_Patch, Mask, int, int]:
        """The patch around a mask, the mask in it, and how far left and down it lies."""
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        top, left = max(int(rows[0]) - RIM, 0), max(int(columns[0]) - RIM, 0)
        at = (slice(top, int(rows[-1]) + RIM + 1), slice(left, int(columns[-1]) + RIM + 1))
        part = _Patch(self.srgb[at], self.lab[at], self.change[at], self.smooth[at])
        return part, mask[at], left, top


def segment(image: NDArray[np.uint8], world: World) -> tuple[Background, tuple[Region, ...]]:
    """The background, and the regions that stand out from it. image: [h, w, 3] uint8 sRGB."""
    srgb = image.astype(np.float32)
    lab = to_lab(srgb)
    background = estimate_background(srgb, lab)
    change = lab - background.lab
    whole = _Patch(srgb - background.srgb, lab, change, _smooth(change))
    regions: list[Region] = []
    for mask in components(_length(whole.smooth) > STANDS_OUT, _speck(world)):
        patch, inside, left, top = whole.crop(mask)
        for part in _colours(patch, grow(inside), world):
            regions += _regions(patch, part, left, top, _speck(world))
    return background, tuple(regions)


def estimate_background(srgb: Plane, lab: Plane) -> Background:
    """A plane through the border pixels, then through all that lie near it; outliers left out."""
    h, w = srgb.shape[:2]
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    terms = np.stack([np.ones_like(x), x / w - 0.5, y / h - 0.5], axis=-1).reshape(-1, 3)
    both = np.concatenate([srgb, lab], axis=-1).reshape(-1, 6)
    rim = max(2, h // 20)
    border = np.ones((h, w), bool)
    border[rim:-rim, rim:-rim] = False
    frame = np.flatnonzero(border)
    plane = np.zeros((3, 6), np.float32)
    plane[0] = np.median(both[frame], axis=0)
    for among in (frame, frame, np.arange(0, h * w, 2)):
        off = _length(both[among, 3:] - terms[among] @ plane[:, 3:])
        near = among[off <= max(STANDS_OUT / 2, 1.5 * float(np.median(off)))]
        a = terms[near]
        plane = np.linalg.solve(a.T @ a + NEVER_FLAT, a.T @ both[near])
    fitted = (terms @ plane).reshape(h, w, 6)
    return Background(fitted[..., :3], fitted[..., 3:], float(fitted[..., :3].mean()))


@cache
def palette(world: World) -> Plane:
    """[colours, 3] Lab of the world's colours as they look on the middle of a thing."""
    return to_lab(MEAN_SHADE * np.array([COLOURS[c] for c in world.colours], np.float32))


def splits(region: Region, world: World) -> Iterator[tuple[Region, ...]]:
    """A region cut where it is narrow, at every width at which it falls apart, narrowest first."""
    solid = core = region.cover > 0.5
    for _ in range(round(world.small)):
        core = shrink(core)
        cores = list(components(core, 1))
        if len(cores) > 1:
            yield tuple(_part(region, own) for own in flood(cores, solid))


def _speck(world: World) -> float:
    return SPECK * world.small**2


def _colours(patch: _Patch, mask: Mask, world: World) -> Iterator[Mask]:
    """The parts of a mask that have hues of their own; most often all of it.

    Lab is seen from the background: towards the edge of a thing it fades, but its hue stays.
    """
    tints = patch.smooth[..., 1:]
    names = np.concatenate([palette(world)[:, 1:], np.zeros((1, 2), np.float32)])  # grey is last
    likeness = tints @ (names / np.maximum(_length(names), 1)[:, None]).T
    likeness[..., -1] = GREYISH
    named = likeness.argmax(-1)[mask]
    weight = _length(patch.smooth)[mask]
    share = np.bincount(named, weight, len(names)) / weight.sum()
    area = np.bincount(named, minlength=len(names))
    large = (share >= SECOND_SHARE) & (area >= SECOND_AREA * world.small**2)
    means = {i: tints[mask][named == i].mean(0) for i in np.flatnonzero(large).tolist()}
    own: list[int] = []
    for i in sorted(means, key=lambda i: -share[i]):
        apart = (_length(means[i] - means[k]) / _length(names[i] - names[k]) for k in own)
        if min(apart, default=1) >= APART:
            own.append(i)
    if len(own) < 2:
        yield mask
        return
    nearest = np.array(own)[likeness[..., own].argmax(-1)]
    yield from (mask & (nearest == i) for i in own)


def _regions(patch: _Patch, mask: Mask, left: int, top: int, speck: float) -> Iterator[Region]:
    """The regions of one colour; cover is how far a pixel is on the way to that colour."""
    off = _length(patch.change)
    full = float(np.quantile(off[mask], 0.9))
    if full < FAINT:
        return
    core = mask & (off >= 0.8 * full)
    way = np.median(patch.srgb[core], axis=0)
    cover = np.clip(patch.srgb @ way / max(float(way @ way), 1.0), 0, 1)
    for part in components(mask & (cover > 0.5), speck):
        near = grow(grow(part)) & mask
        rows, columns = np.flatnonzero(near.any(1)), np.flatnonzero(near.any(0))
        at = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        own = np.where(near, cover, 0).astype(np.float32)[at]
        solid = part & (cover > 0.8)
        colour = patch.lab[solid if solid.any() else part].mean(0)
        x, y = left + int(columns[0]), top + int(rows[0])
        yield Region(np.pad(own, RIM), x - RIM, y - RIM, colour)


def _part(region: Region, own: Mask) -> Region:
    rest = (region.cover > 0.5) & ~own
    cover = np.where(grow(own) & ~rest, region.cover, 0).astype(np.float32)
    return Region(cover, region.left, region.top, region.lab)


def _length(vectors: Plane) -> Plane:
    lengths: Plane = np.sqrt((vectors**2).sum(-1))
    return lengths


def _smooth(values: Plane) -> Plane:
    """Each pixel with the eight around it, weighted 1 2 1 both ways; [h, w, c]."""
    wide = np.pad(values, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = wide[:-2] + 2 * wide[1:-1] + wide[2:]
    total = rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]
    mean: Plane = total / np.float32(16)
    return mean
