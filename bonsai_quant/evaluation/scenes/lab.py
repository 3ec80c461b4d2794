"""CIE Lab (D65, 2 degrees): distances in it are about as large as differences look."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

Plane = NDArray[np.float32]

FROM_SRGB = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
"""Linear sRGB to XYZ (IEC 61966-2-1)."""
WHITE = (0.95047, 1.0, 1.08883)
STEPS = 16
"""Entries of the gamma table for each grey level."""


def to_lab(srgb: ArrayLike) -> Plane:
    """[.., 3] sRGB from 0 to 255 -> [.., 3] float32 L from 0 to 100, a and b."""
    levels = np.clip(np.asarray(srgb, np.float32), 0, 255) * np.float32(STEPS)
    linear = _gamma()[np.rint(levels).astype(np.int32)]
    f = _f(linear @ _matrix())
    fx, fy, fz = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)], axis=-1)


def _f(t: Plane) -> Plane:
    straight = np.float32(7.787) * t + np.float32(16 / 116)
    return np.where(t > 0.008856, np.cbrt(t), straight).astype(np.float32)


@cache
def _gamma() -> Plane:
    level = np.arange(255 * STEPS + 1) / (255 * STEPS)
    linear = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    return linear.astype(np.float32)


@cache
def _matrix() -> Plane:
    to_xyz, white = np.array(FROM_SRGB, np.float32), np.array(WHITE, np.float32)
    return (to_xyz.T / white).astype(np.float32)
