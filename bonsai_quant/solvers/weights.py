"""The two forms in which a block of weights reaches a solver, and one view of both."""

from __future__ import annotations

import numpy as np


def raw_bits(weight: np.ndarray) -> tuple[np.ndarray, np.uint32]:
    """weight: uint16 (bf16 bits) or float32 -> its bits, and the shift to float32's."""
    if weight.dtype == np.uint16:
        return weight, np.uint32(16)
    if weight.dtype != np.float32:
        raise TypeError(f"weights are {weight.dtype}; solvers take uint16 (bf16 bits) or float32")
    return weight.view(np.uint32), np.uint32(0)


def as_float32(weight: np.ndarray) -> np.ndarray:
    """weight: uint16 (bf16 bits) or float32 -> float32 of the same shape and values."""
    if weight.dtype == np.uint16:
        return (weight.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return weight


def from_stored(data: np.ndarray, dtype: str) -> np.ndarray:
    """data: as read from a BF16, F16 or F32 tensor -> the form that solvers take."""
    return data.astype(np.float32) if dtype == "F16" else data
