"""The numbers a scale may be: fp16 values that bf16 can hold too, normal in fp16, never zero.

bf16 has 8 significant bits and fp16 has 11, so a number of both has 8, between 2^-14 and 65280.
Every format then stores the same number, whether it keeps scales in fp16, bf16 or fp32.
"""

from __future__ import annotations

import numpy as np

from .bf16 import rounded_bits

SMALLEST = 2.0**-14
"""A group whose best scale is below this gets this scale, and codes chosen for it."""
LARGEST = 65280.0
LARGEST_BINARY = LARGEST / 2
"""Existing binary packs store 2 s, which must fit as well."""


STEP = 1 << 16
"""Kept values rounded at a time."""


def round_to_grid(scales: np.ndarray, largest: float = LARGEST) -> tuple[np.ndarray, np.ndarray]:
    """scales: float64, >= 0 -> nearest grid scales (float32), and where they were too small.

    Half to even, in one rounding. Values above the grid become inf: the caller refuses them.
    """
    mantissa, exponent = np.frexp(scales)
    rounded = np.ldexp(np.rint(mantissa * 256.0), exponent - 8)
    below = rounded < SMALLEST
    rounded = np.where(below, SMALLEST, rounded)
    return np.where(rounded > largest, np.inf, rounded).astype(np.float32), below


def on_grid(scales: np.ndarray) -> np.ndarray:
    """scales: float32 -> where each is a number that every format can hold."""
    eight_bits = scales.view(np.uint32) & np.uint32(0xFFFF) == 0
    legal: np.ndarray = eight_bits & (scales >= SMALLEST) & (scales <= LARGEST)
    return legal


def round_kept(values: np.ndarray) -> np.ndarray:
    """values: float32 -> nearest numbers that fp16 and bf16 both hold, as float32; inf beyond them.

    Above 2^-17 bf16 is the coarser of the two, below it fp16's step of 2^-24 is.
    """
    flat = values.reshape(-1)
    rounded = np.empty_like(flat)
    for at in range(0, flat.size, STEP):  # temporaries that stay in the cache
        rounded[at : at + STEP] = _round_kept(flat[at : at + STEP])
    return rounded.reshape(values.shape)


def _round_kept(values: np.ndarray) -> np.ndarray:
    bits = values.view(np.uint32)
    coarse = (rounded_bits(bits) & np.uint32(0xFFFF0000)).view(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        fine = np.rint(values * np.float32(2.0**24)) * np.float32(2.0**-24)
    size = np.abs(values)
    rounded = np.where(size < np.float32(2.0**-17), fine, coarse)
    # The carry of a NaN's bits can make it a small number, so `size` decides too; NaN fails both.
    fits = (size < np.float32(65536)) & (np.abs(rounded) <= np.float32(LARGEST))
    return np.where(fits, rounded, np.float32(np.inf))
