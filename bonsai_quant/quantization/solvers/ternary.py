"""Ternary: the true optimum of min ||w - s t||^2 per group, s real, t in {-1,0,+1}.

For the best t of a given s, t_i = sign(w_i) [|w_i| > s/2], so the optimum keeps the k
largest |w|. With C_k their sum, the best scale for that set is s = C_k / k, and the error is
||w||^2 - C_k^2 / k: the optimum is the k that maximises C_k^2 / k.
(Ternary Weight Networks, https://arxiv.org/abs/1605.04711, eq. 3-5, without its approximation.)

No sort is needed. An optimum is a fixed point of theta -> C(theta) / 2k(theta), where C and k
belong to the set |w| > theta. This map never decreases, so walking it up from 0 and down from max/2
stops at its least and its greatest fixed point; the optimum lies between them. Usually they are one
and the same; otherwise walks from in between find the others.

Magnitudes are compared as integers m = |w| 2^(23 - e), e the exponent of the group's largest. A
weight in the optimal set exceeds s/2 >= max/256, so for bf16 and fp16 sources its m is exact; sums
of integers do not depend on their order, hence neither on vector width nor on threads.
"""

from __future__ import annotations

import numpy as np

from bonsai_quant.core.schema import GROUP
from bonsai_quant.quantization.bf16 import raw_bits
from bonsai_quant.quantization.jit import kernel

FEW = 8
"""Magnitudes that are sooner tried one by one than searched by halves."""


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
    if k_low == k_high:
        return k_low, c_low
    return _best_between(m, low, k_low, c_low, high, k_high, c_high)


@kernel
def _best_between(m, low, k_low, c_low, high, k_high, c_high):  # type: ignore[no-untyped-def]
    """The best of the fixed points low, high and those between them.

    A walk from any theta ends at a fixed point and passes none on its way, so each walk clears an
    interval. A wide gap, which an outlier leaves, is halved by walks from its middle until few
    magnitudes are left; those are tried one by one.
    """
    best_k, best_c = _better(k_low, c_low, k_high, c_high)
    while k_low - k_high > FEW and high - low > 1:
        middle = low + ((high - low) >> np.int32(1))
        k, c = _above(m, middle)
        k_middle, after = k, np.int32(c // (2 * k))
        rising = after > middle
        while low < after < high:
            k_after, c_after = _above(m, after)
            if k_after == k:  # a fixed point that neither end led to: look behind it too
                best_k, best_c = _better(best_k, best_c, k, c)
                ends = (after, high) if rising else (low, after)
                k, c = _best_one_by_one(m, ends[0], ends[1])
                best_k, best_c = _better(best_k, best_c, k, c)
                break
            k, c = k_after, c_after
            after = np.int32(c // (2 * k))
        if rising:
            high, k_high = middle, k_middle
        else:
            low, k_low = middle, k_middle
    k, c = _best_one_by_one(m, low, high)
    return _better(best_k, best_c, k, c)


@kernel
def _best_one_by_one(m, low, high):  # type: ignore[no-untyped-def]
    """Add the magnitudes in (low, high] to those above high, largest first, equal ones together."""
    k_low, _ = _above(m, low)
    k, c = _above(m, high)
    best_k, best_c = k, c
    while k < k_low:
        high = np.int32(_largest_up_to(m, high) - np.int32(1))
        k, c = _above(m, high)
        best_k, best_c = _better(best_k, best_c, k, c)
    return best_k, best_c


@kernel
def _above(m, theta):  # type: ignore[no-untyped-def]
    """Number and sum of the magnitudes above theta."""
    one, zero = np.int32(1), np.int32(0)
    k, c = zero, zero
    for j in range(128):
        x = m[j]
        k = np.int32(k + (one if x > theta else zero))
        c = np.int32(c + (x if x > theta else zero))
    return k, np.int64(c)


@kernel
def _better(k, c, other_k, other_c):  # type: ignore[no-untyped-def]
    """The pair with the larger c^2 / k; the smaller set when they are equal."""
    gain = np.float64(c) * np.float64(c) / np.float64(k)
    other = np.float64(other_c) * np.float64(other_c) / np.float64(other_k)
    if other > gain or (other == gain and other_k < k):
        return other_k, other_c
    return k, c


@kernel
def _largest_up_to(m, limit):  # type: ignore[no-untyped-def]
    best = np.int32(0)
    for j in range(128):
        x = m[j] if m[j] <= limit else np.int32(0)
        best = x if x > best else best
    return best
