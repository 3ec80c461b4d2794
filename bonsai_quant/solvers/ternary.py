"""Ternary: the true optimum of min ||w - s t||^2 per group, s real, t in {-1,0,+1}.

For the best t of a given s, t_i = sign(w_i) [|w_i| > s/2], so the optimum keeps the k
largest |w|. With C_k their sum, the best scale for that set is s = C_k / k, and the error is
||w||^2 - C_k^2 / k: the optimum is the k that maximises C_k^2 / k.
(Ternary Weight Networks, https://arxiv.org/abs/1605.04711, eq. 3-5, without its approximation.)

No sort is needed. An optimum is a fixed point of theta -> C(theta) / 2k(theta), where C and k
belong to the set |w| > theta. This map never decreases, so walking it up from 0 and down from max/2
stops at its least and its greatest fixed point; the optimum lies between them, and there are seldom
more than a few weights in between, which are added one by one.

Magnitudes are compared as integers m = |w| 2^(23 - e), e the exponent of the group's largest. A
weight in the optimal set exceeds s/2 >= max/256, so for bf16 and fp16 sources its m is exact; sums
of integers do not depend on their order, hence neither on vector width nor on threads.
"""

from __future__ import annotations

import numpy as np

from ..jit import kernel
from ..schema import GROUP
from .weights import raw_bits


def scales(weight: np.ndarray) -> np.ndarray:
    """weight: [rows, in], uint16 (bf16 bits) or float32 -> best s: [rows, in / 128] float64.

    0 where all weights are far below the grid of scales; NaN where one is not finite.
    """
    bits, shift = raw_bits(weight)
    out = np.empty((weight.shape[0], weight.shape[1] // GROUP), np.float64)
    _ternary(bits, shift, out)
    return out


@kernel
def _ternary(bits, shift, out):  # type: ignore[no-untyped-def]
    word = np.empty(128, np.uint32)
    real = word.view(np.float32)
    m = np.empty(128, np.int32)
    for r in range(out.shape[0]):
        for g in range(out.shape[1]):
            top = np.uint32(0)
            for j in range(128):
                w = (np.uint32(bits[r, g * 128 + j]) << shift) & np.uint32(0x7FFFFFFF)
                word[j] = w
                top = max(top, w)
            e = np.int32(top >> np.uint32(23)) - np.int32(127)
            if e < -60 or e == 128:  # far below the grid of scales, or not finite
                out[r, g] = np.nan if e == 128 else 0.0
                continue
            unit = np.float32(2.0 ** (23 - e))
            for j in range(128):
                m[j] = np.int32(real[j] * unit)
            k, total = _best_set(m, np.int32(top & np.uint32(0x7FFFFF)) + np.int32(1 << 23))
            out[r, g] = (total / k) / np.float64(unit)


@kernel
def _above_both(m, low, high):  # type: ignore[no-untyped-def]
    """Number and sum of the magnitudes above each of two thresholds."""
    # Kept in 32 bits throughout, for eight lanes a vector: a sum of 128 m < 2^24 is below 2^31.
    one, zero = np.int32(1), np.int32(0)
    k_low, k_high, c_low, c_high = zero, zero, zero, zero
    for j in range(128):
        x = m[j]
        k_low = np.int32(k_low + (one if x > low else zero))
        c_low = np.int32(c_low + (x if x > low else zero))
        k_high = np.int32(k_high + (one if x > high else zero))
        c_high = np.int32(c_high + (x if x > high else zero))
    return k_low, np.int64(c_low), k_high, np.int64(c_high)


@kernel
def _best_set(m, top):  # type: ignore[no-untyped-def]
    """m: [128] int32 >= 0 with maximum top > 0 -> (k, C_k) with the largest C_k^2 / k."""
    low, high = np.int32(0), top >> np.int32(1)
    last_low, last_high = np.int32(-1), np.int32(-1)
    k_low, c_low, k_high, c_high = _above_both(m, low, high)
    while k_low != k_high and (k_low != last_low or k_high != last_high):
        last_low, last_high = k_low, k_high
        low, high = np.int32(c_low // (2 * k_low)), np.int32(c_high // (2 * k_high))
        k_low, c_low, k_high, c_high = _above_both(m, low, high)
    best_k, best_c = k_high, c_high
    best = np.float64(c_high) * np.float64(c_high) / np.float64(k_high)
    while k_high < k_low:  # add the weights in between, largest first, equal ones together
        high = np.int32(_largest_up_to(m, high) - np.int32(1))
        _, _, k_high, c_high = _above_both(m, low, high)
        gain = np.float64(c_high) * np.float64(c_high) / np.float64(k_high)
        if gain > best:
            best, best_k, best_c = gain, k_high, c_high
    return best_k, best_c


@kernel
def _largest_up_to(m, limit):  # type: ignore[no-untyped-def]
    best = np.int32(0)
    for j in range(128):
        x = m[j] if m[j] <= limit else np.int32(0)
        best = x if x > best else best
    return best
