"""MLX's affine 4-bit quantization of 16-bit weights, to the bit, without MLX.

Groups of 64 consecutive inputs of a row share a scale s and a bias b; weight = code * s + b, codes
0 to 15. The end of the group's range that is larger in magnitude becomes b and is exact: s is the
range / 15, signed so that codes count away from that end, then stretched so that zero, too, falls
on a code. Arithmetic is float32, as MLX's on a CPU; s and b are rounded to bf16 once the codes are
chosen.

A word holds eight codes, the first in its lowest four bits.
"""

from __future__ import annotations

import numpy as np

from .bf16 import to_bf16
from .jit import kernel

GROUP = 64
LEVELS = np.float32(15)
LEAST = np.float32(1e-7)
"""The least magnitude of a scale before it is stretched."""


def not_finite(weight: np.ndarray) -> int | None:
    """weight: bf16 bits as uint16 -> flat index of the first that is infinite or no number."""
    at = int(_not_finite(weight.reshape(-1)))
    return None if at < 0 else at


def quantize(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """weight: [rows, in] bf16 bits as uint16, finite, in a multiple of 64.

    -> words [rows, in / 8] uint32, scales and biases [rows, in / 64] bf16 bits as uint16.
    """
    rows, n = weight.shape
    words = np.empty((rows, n // 8), np.uint32)
    scales, biases = (np.empty((rows, n // GROUP), np.float32) for _ in range(2))
    _quantize(weight, words, scales, biases)
    return words, to_bf16(scales), to_bf16(biases)


@kernel
def _not_finite(weight):  # type: ignore[no-untyped-def]
    for i in range(weight.size):
        if weight[i] & np.uint16(0x7F80) == np.uint16(0x7F80):
            return i
    return -1


@kernel
def _scale(low, high):  # type: ignore[no-untyped-def]
    """Scale and bias of a group whose values are from low to high."""
    below = abs(low) > abs(high)
    scale = max((high - low) / LEVELS, LEAST)
    edge = low if below else high
    if not below:
        scale = -scale
    steps = np.rint(edge / scale)
    if steps == 0:
        return scale, np.float32(0)
    return edge / steps, edge


@kernel
def _quantize(weight, words, scales, biases):  # type: ignore[no-untyped-def]
    group = np.empty(64, np.uint32)
    values = group.view(np.float32)
    for r in range(scales.shape[0]):
        for g in range(scales.shape[1]):
            low, high = np.float32(np.inf), np.float32(-np.inf)
            for i in range(64):
                group[i] = np.uint32(weight[r, g * 64 + i]) << np.uint32(16)
                low, high = min(low, values[i]), max(high, values[i])
            scale, bias = _scale(low, high)
            scales[r, g], biases[r, g] = scale, bias
            for w in range(8):
                word = np.uint32(0)
                for k in range(8):
                    code = np.rint((values[w * 8 + k] - bias) / scale)
                    code = min(max(code, np.float32(0)), LEVELS)
                    word |= np.uint32(code) << np.uint32(4 * k)
                words[r, g * 8 + w] = word


def decode(words: np.ndarray, scales: np.ndarray, biases: np.ndarray) -> np.ndarray:
    """code * s + b in float32: the weights that MLX's products of float32 inputs compute with.

    words: [rows, in / 8] uint32.  scales, biases: [rows, groups] float32 -> [rows, in] float32.
    """
    out = np.empty((words.shape[0], words.shape[1] * 8), np.float32)
    _decode(words, scales, biases, out)
    return out


@kernel
def _decode(words, scales, biases, out):  # type: ignore[no-untyped-def]
    per_group = words.shape[1] // scales.shape[1]
    for r in range(scales.shape[0]):
        for g in range(scales.shape[1]):
            for w in range(g * per_group, (g + 1) * per_group):
                word = words[r, w]
                for k in range(8):
                    code = np.float32((word >> np.uint32(4 * k)) & np.uint32(15))
                    out[r, w * 8 + k] = code * scales[r, g] + biases[r, g]
