"""Decode a large picture in tiles that overlap and blend into one another."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .sampling import PIXELS, Latents

Decode = Callable[[Latents], NDArray[np.float32]]

TILE, OVERLAP = 64, 16
"""Tokens of a tile's side, and of what two neighbours share: 1024 and 256 pixels."""


def in_tiles(
    decode: Decode, latents: Latents, tile: int = TILE, overlap: int = OVERLAP
) -> NDArray[np.float32]:
    """latents [n, rows, columns, channels] -> pictures [n, height, width, 3].

    Up to a tile's size nothing is cut. Each tile counts fully inside, and less and less towards an
    edge that it shares; the weights of all tiles are divided out at the end.
    """
    rows, columns = latents.shape[1:3]
    if rows <= tile and columns <= tile:
        return decode(latents)
    sums = np.zeros((len(latents), rows * PIXELS, columns * PIXELS, 3), np.float32)
    weights = np.zeros((rows * PIXELS, columns * PIXELS, 1), np.float32)
    for top in _starts(rows, tile, overlap):
        for left in _starts(columns, tile, overlap):
            image = decode(latents[:, top : top + tile, left : left + tile])
            high, wide = image.shape[1:3]
            y, x = top * PIXELS, left * PIXELS
            down = _ramp(high, y, rows * PIXELS, overlap * PIXELS)
            across = _ramp(wide, x, columns * PIXELS, overlap * PIXELS)
            weight = (down[:, None] * across)[..., None]
            sums[:, y : y + high, x : x + wide] += weight * image
            weights[y : y + high, x : x + wide] += weight
    sums /= weights
    return sums


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin; the last one ends where the picture does."""
    if length <= tile:
        return [0]
    step = tile - overlap
    return [*range(0, length - tile, step), length - tile]


def _ramp(size: int, at: int, total: int, overlap: int) -> NDArray[np.float32]:
    """[size]: 1, but rising from an edge inside the picture over `overlap` pixels."""
    ramp = np.ones(size, np.float32)
    rise = (np.arange(overlap, dtype=np.float32) + 0.5) / overlap
    if at > 0:
        ramp[:overlap] *= rise[:size]
    if at + size < total:
        ramp[-overlap:] *= rise[::-1][-size:]
    return ramp
