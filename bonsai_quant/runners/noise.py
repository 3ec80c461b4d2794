"""The noise that a picture starts from: torch's own for a seed, without torch.

So one seed gives one picture whatever runs the model, here as in diffusers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LANES = 16
"""Numbers that torch draws together: eight radii, then eight angles."""


def draw(seed: int, rows: int, columns: int, channels: int) -> NDArray[np.float32]:
    """[rows, columns, channels] float32: what diffusers draws as [channels, rows, columns]."""
    flat = normal(seed, rows * columns * channels)
    return np.ascontiguousarray(flat.reshape(channels, rows, columns).transpose(1, 2, 0))


def normal(seed: int, n: int) -> NDArray[np.float32]:
    """`torch.randn(n)` on the CPU from a generator with this seed; n >= 16.

    Mersenne Twister and the Box-Muller transform; a last, broken lane is drawn again as a whole.
    """
    # torch, too, seeds its generator with the low 32 bits.
    state = np.random.RandomState(seed & 0xFFFFFFFF)
    tail = n % LANES
    uniform = _uniform(state, n + (LANES if tail else 0))
    whole = _box_muller(uniform[: n - tail])
    if not tail:
        return whole
    return np.concatenate([whole[: n - LANES], _box_muller(uniform[n:])])


def _uniform(state: np.random.RandomState, n: int) -> NDArray[np.float32]:
    raw = state.randint(0, 1 << 32, n, np.uint32) & np.uint32(0xFFFFFF)
    return raw.astype(np.float32) * np.float32(2.0**-24)


def _box_muller(uniform: NDArray[np.float32]) -> NDArray[np.float32]:
    lanes = uniform.reshape(-1, 2, LANES // 2).astype(np.float64)
    radius = np.sqrt(-2 * np.log(1 - lanes[:, 0]))
    angle = 2 * np.pi * lanes[:, 1]
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    return pairs.reshape(-1).astype(np.float32)
