"""Masks of pixels: their parts, and how they grow and shrink. All are [h, w] bool."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def components(mask: Mask, smallest: float) -> Iterator[Mask]:
    """The parts of a mask that hang together by their sides, in reading order, specks left out."""
    parent = np.arange(mask.size)
    index = parent.reshape(mask.shape)
    beside, below = mask[:, 1:] & mask[:, :-1], mask[1:] & mask[:-1]
    a = np.concatenate([index[:, :-1][beside], index[:-1][below]])
    b = np.concatenate([index[:, 1:][beside], index[1:][below]])
    while len(a):
        low = np.minimum(parent[a], parent[b])
        np.minimum.at(parent, parent[a], low)
        np.minimum.at(parent, parent[b], low)
        while (parent[parent] != parent).any():
            parent = parent[parent]
        apart = parent[a] != parent[b]
        a, b = a[apart], b[apart]
    roots = parent.reshape(mask.shape)
    sizes = np.bincount(parent[mask.ravel()], minlength=mask.size)
    for root in np.flatnonzero(sizes >= smallest):
        yield (roots == root) & mask


def grow(mask: Mask) -> Mask:
    """The mask and the eight pixels around each of its pixels."""
    wide = np.pad(mask, 1)
    rows = wide[:-2] | wide[1:-1] | wide[2:]
    grown: Mask = rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:]
    return grown


def shrink(mask: Mask) -> Mask:
    """The mask without the pixels that have a side on its edge."""
    wide = np.pad(mask, 1)
    return mask & wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]


def flood(cores: list[Mask], solid: Mask) -> list[Mask]:
    """Each core grown back into the solid mask, in turns, as far as it meets no other."""
    owner = np.zeros(solid.shape, np.int64)
    for i, core in enumerate(cores, 1):
        owner[core] = i
    while (free := solid & (owner == 0)).any():
        before = owner.copy()
        for i in range(1, len(cores) + 1):
            owner[grow(before == i) & free & (owner == 0)] = i
        if (owner == before).all():
            break
    return [owner == i for i in range(1, len(cores) + 1)]
