"""bf16 as its 16 bits, in uint16, since numpy has no such type: the one place that shifts them.

A block of weights reaches a solver in one of two forms, bf16 bits or float32; a kernel sees both
as 32-bit words, by a shift. Kernels do that shift themselves.
"""

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
        return from_bf16(weight)
    return weight


def from_stored(data: np.ndarray, dtype: str) -> np.ndarray:
    """data: as read from a BF16, F16 or F32 tensor -> the form that solvers take."""
    return data.astype(np.float32) if dtype == "F16" else data


def bf16_bits(values: np.ndarray) -> np.ndarray:
    """float16 or float32 values that bf16 holds exactly -> their 16 bits."""
    return (values.astype(np.float32).view(np.uint32) >> np.uint32(16)).astype(np.uint16)


def from_bf16(bits: np.ndarray) -> np.ndarray:
    """bf16's 16 bits -> float32."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_bf16(weight: np.ndarray) -> np.ndarray:
    """weight: float16 or float32 [...] -> its bf16 bits as uint16, rounded half to even."""
    bits = np.ascontiguousarray(weight, np.float32).view(np.uint32)
    return (rounded_bits(bits) >> np.uint32(16)).astype(np.uint16)


def rounded_bits(bits: np.ndarray) -> np.ndarray:
    """float32's bits, uint32 -> those whose upper 16 are bf16's, rounded half to even.

    The lower 16 are left as they come out.
    """
    rounded: np.ndarray = bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))
    return rounded
