"""A linear as a gemlite pack stores it, and what may be wrong with its shapes and metadata."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .probe import GROUP

ACCUMULATOR = 7
"""Place of the accumulator's type in the metadata: 0 fp32, or 1 fp16 where that GPU is faster."""
SCALES = 8
"""Place of the scales' type there."""
HALF = 1


@dataclass(frozen=True, eq=False)
class GemliteLayer:
    """One linear as stored: the five leaves of state_dict.pt.

    W_q: [in * bits / 8, out] uint8; scales, zeros: [in / 128, out] float32 or float16;
    metadata: [12] int32; orig_shape: [2] int32, out and in.
    """

    name: str
    W_q: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray
    metadata: np.ndarray
    orig_shape: np.ndarray

    @property
    def bits(self) -> int:
        """Bits of a code, from the shapes alone."""
        return int(8 * self.W_q.shape[0] // max(1, GROUP * self.scales.shape[0]))

    def leaves(self) -> dict[str, np.ndarray]:
        """The arrays by their names in state_dict.pt."""
        names = ("W_q", "scales", "zeros", "metadata", "orig_shape")
        return {name: np.ascontiguousarray(getattr(self, name)) for name in names}


def expected_metadata(bits: int) -> np.ndarray:
    """[12] int32: fp16 in and out, fp32 sums and scales, weight = code * scale + zero."""
    return np.array([0, bits, GROUP, 2**bits - 1, 8 // bits, 1, 1, 0, 0, 0, 4, 1], np.int32)


def malformed(layer: GemliteLayer, reference: np.ndarray) -> str:
    """What in a layer would make a kernel read past the end of an array; empty if nothing."""
    out, width = reference.shape
    meta, bits = (width // GROUP, out), layer.bits
    real = np.float16 if layer.scales.dtype == np.float16 else np.float32
    expected = {
        "W_q": ((width * bits // 8, out), np.uint8),
        "scales": (meta, real),
        "zeros": (meta, real),
        "metadata": ((12,), np.int32),
        "orig_shape": ((2,), np.int32),
    }
    for name, (shape, dtype) in expected.items():
        array = getattr(layer, name)
        if array.shape != shape or array.dtype != dtype:
            actual = f"{array.dtype} {list(array.shape)}"
            return f"{name} is {actual}, expected {np.dtype(dtype)} {list(shape)}"
    if bits not in (1, 2) or width % GROUP or layer.orig_shape.tolist() != [out, width]:
        return f"{bits} bits, orig_shape {layer.orig_shape.tolist()}, expected {[out, width]}"
    return _wrong_metadata(layer.metadata, bits, HALF if real == np.float16 else 0)


def _wrong_metadata(actual: np.ndarray, bits: int, scales_type: int) -> str:
    """Where metadata differs from what gemlite stores; either type of accumulator is right."""
    expected = expected_metadata(bits)
    expected[SCALES] = scales_type
    if actual[ACCUMULATOR] in (0, 1):
        expected[ACCUMULATOR] = actual[ACCUMULATOR]
    if np.array_equal(actual, expected):
        return ""
    return f"metadata is {actual.tolist()}, expected {expected.tolist()}"
