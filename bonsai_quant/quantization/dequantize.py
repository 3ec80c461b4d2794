"""Codes and scales -> weights, by the affine rule that the clients of every format use."""

from __future__ import annotations

import numpy as np

from bonsai_quant.core.schema import PackedLayer

from .jit import kernel

ALL_ZERO = 0x55
"""Four codes 1 at 2 bits."""


def affine(codes: np.ndarray, bits: int, scales: np.ndarray, biases: np.ndarray) -> np.ndarray:
    """w = code * scale + bias, in float32.

    codes: [rows, in * bits / 8] uint8.  scales, biases: [rows, in / 128] float32 -> [rows, in].
    """
    out = np.empty((codes.shape[0], codes.shape[1] * 8 // bits), np.float32)
    _affine(codes, np.uint8(bits), scales, biases, out)
    return out


def weights(layer: PackedLayer, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Rows [start, stop) of a packed layer as float32 [rows, in]: s * t."""
    return decoded(layer.codes[start:stop], layer.scales[start:stop], layer.bits)


def decoded(codes: np.ndarray, scales: np.ndarray, bits: int) -> np.ndarray:
    """codes: [rows, in * bits / 8] uint8.  scales: [rows, in / 128] float16 -> s * t, float32."""
    s = scales.astype(np.float32)
    return affine(codes, bits, s if bits == 2 else 2 * s, -s)


def zero_groups(layer: PackedLayer) -> np.ndarray:
    """Where [out, in / 128] a group is zeros alone, so that its scale says nothing."""
    codes = layer.codes.reshape(*layer.scales.shape, -1)
    empty: np.ndarray = (codes == ALL_ZERO).all(-1) & (layer.bits == 2)
    return empty


@kernel
def _affine(codes, bits, scales, biases, out):  # type: ignore[no-untyped-def]
    levels = np.empty(4, np.float32)
    mask = np.uint8((1 << bits) - 1)
    group_bytes = 16 * bits
    per_byte = 8 // bits
    for r in range(scales.shape[0]):
        for g in range(scales.shape[1]):
            for c in range(4):
                levels[c] = np.float32(c) * scales[r, g] + biases[r, g]
            for b in range(group_bytes):
                byte = codes[r, g * group_bytes + b]
                at = g * 128 + b * per_byte
                for i in range(per_byte):
                    out[r, at + i] = levels[(byte >> np.uint8(i * bits)) & mask]
