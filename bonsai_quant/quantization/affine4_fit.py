"""4-bit affine codes by the least squared error, in the form of `affine4`: weight = code * s + b.

MLX's rule lets a group's range decide. Here s and b are searched: either end of the range is drawn
in by steps, and the best of these is refitted to its codes by least squares. s and b are numbers
that bf16 holds before the codes are chosen, so that what is measured is what is decoded.
"""

from __future__ import annotations

import numpy as np

from .affine4 import GROUP
from .bf16 import bf16_bits
from .jit import kernel

STEPS, STEP = 4, 0.06
"""Places that are tried for either end of a range, and by what share of it they differ."""
TRIED = STEPS * STEPS
REFITS = 3
"""Rounds of refitting at most; the first that does not help is the last."""

WHOLE = np.float32(3 << 22)
"""Added and taken away it leaves a small number rounded half to even, without a call."""


def fit(weight: np.ndarray, group: int = GROUP) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """weight: [rows, in] bf16 bits as uint16, finite, in a multiple of `group`, which is one of 8.

    -> words [rows, in / 8] uint32, scales and biases [rows, in / group] bf16 bits as uint16.
    """
    rows, n = weight.shape
    words = np.empty((rows, n // 8), np.uint32)
    scales, biases = (np.empty((rows, n // group), np.float32) for _ in range(2))
    _fit(weight, group, words, scales, biases)
    return words, bf16_bits(scales), bf16_bits(biases)


@kernel
def _fit(weight, group, words, scales, biases):  # type: ignore[no-untyped-def]
    bits, pair = np.empty(group, np.uint32), np.empty(2, np.uint32)
    values, line = bits.view(np.float32), pair.view(np.float32)
    codes, best = np.empty(group, np.float32), np.empty(group, np.float32)
    for r in range(scales.shape[0]):
        for g in range(scales.shape[1]):
            for i in range(group):
                bits[i] = np.uint32(weight[r, g * group + i]) << np.uint32(16)
            low, high = values.min(), values.max()
            least = np.float32(np.inf)
            for k in range(TRIED + REFITS):
                if k < TRIED:
                    upper, lower = (
                        np.float32(1 - STEP * (k % STEPS)),
                        np.float32(1 - STEP * (k // STEPS)),
                    )
                    line[0] = upper * high / np.float32(15) - lower * low / np.float32(15)
                    line[1] = lower * low
                else:
                    _refit(values, best, line)
                _round(pair, line)
                error = _codes(values, line[0], line[1], codes)
                if k == 0 or error < least:
                    least, scales[r, g], biases[r, g] = error, line[0], line[1]
                    best[:] = codes
                elif k >= TRIED:
                    break
            for w in range(group // 8):
                word = np.uint32(0)
                for k in range(8):
                    word |= np.uint32(best[w * 8 + k]) << np.uint32(4 * k)
                words[r, g * (group // 8) + w] = word


@kernel
def _round(pair, line):  # type: ignore[no-untyped-def]
    """Scale and bias to what bf16 holds, half to even; a scale of nothing becomes 1."""
    for i in range(2):
        odd = (pair[i] >> np.uint32(16)) & np.uint32(1)
        pair[i] = (pair[i] + np.uint32(0x7FFF) + odd) & np.uint32(0xFFFF0000)
    if not line[0] > np.float32(1e-30):
        line[0] = np.float32(1)


@kernel
def _codes(values, scale, bias, codes):  # type: ignore[no-untyped-def]
    """The nearest codes, and their squared error."""
    per_unit = np.float32(1) / scale
    for i in range(len(values)):
        x = (values[i] - bias) * per_unit
        x = x if x > np.float32(0) else np.float32(0)
        x = x if x < np.float32(15) else np.float32(15)
        codes[i] = (x + WHOLE) - WHOLE
    e0 = e1 = e2 = e3 = np.float32(0)
    for i in range(0, len(values), 4):
        d0 = values[i] - (codes[i] * scale + bias)
        d1 = values[i + 1] - (codes[i + 1] * scale + bias)
        d2 = values[i + 2] - (codes[i + 2] * scale + bias)
        d3 = values[i + 3] - (codes[i + 3] * scale + bias)
        e0, e1, e2, e3 = e0 + d0 * d0, e1 + d1 * d1, e2 + d2 * d2, e3 + d3 * d3
    return (e0 + e1) + (e2 + e3)


@kernel
def _refit(values, codes, line):  # type: ignore[no-untyped-def]
    """The least-squares line through (code, value); flat where all codes are one."""
    n = len(values)
    sum_c = sum_v = sum_cc = sum_cv = 0.0
    for i in range(n):
        c, v = float(codes[i]), float(values[i])
        sum_c, sum_v = sum_c + c, sum_v + v
        sum_cc, sum_cv = sum_cc + c * c, sum_cv + c * v
    spread = n * sum_cc - sum_c * sum_c
    slope = (n * sum_cv - sum_c * sum_v) / spread if spread > 0 else 0.0
    line[0], line[1] = slope, (sum_v - slope * sum_c) / n
