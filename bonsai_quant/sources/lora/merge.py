"""w + sum of factor * up @ down, in float32, the same bytes whatever the threads or the blocks.

A library's matrix product may add in an order that depends on shapes and threads. Here a weight's
ranks are added one after the other, first to last, and then once to the weight; the factor is
multiplied into `up` beforehand, in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bonsai_quant.core.schema import Delta
from bonsai_quant.quantization.bf16 import raw_bits
from bonsai_quant.quantization.jit import kernel

from .values import opened, read_factor

TILE = 1024
"""Columns at a time: so much of `down` stays in the cache while rows pass over it."""
UNROLL = 4
"""Ranks that the kernel takes in one step; the rank is filled up to it with zeros."""


@dataclass(frozen=True, slots=True)
class Factors:
    """All that is added to one tensor. up: [out, r] float32.  down: [r, in] float32."""

    up: np.ndarray
    down: np.ndarray


def read_factors(deltas: Sequence[Delta], shape: tuple[int, ...]) -> Factors:
    """The factors of all LoRAs side by side. shape: [out, in]."""
    ranks = sum(d.rank for d in deltas)
    up = np.zeros((shape[0], -(-ranks // UNROLL) * UNROLL), np.float32)
    down = np.zeros((up.shape[1], shape[1]), np.float32)
    at = 0
    for d in deltas:
        own = slice(at, at + d.rank)
        with opened(d.down) as fd:
            down[own] = read_factor(fd, d.down)
            values = read_factor(fd, d.up[0].stored)
        for p in d.up:
            part = values[p.start : p.stop].astype(np.float64) * d.factor
            with np.errstate(over="ignore"):  # what is too large is refused with the weight's place
                up[p.at : p.at + p.stop - p.start, own] = part
        at += d.rank
    return Factors(up, down)


def merged(weight: np.ndarray, factors: Factors, start: int) -> np.ndarray:
    """weight: rows from `start` of the tensor, uint16 (bf16 bits) or float32 -> float32."""
    raw, shift = raw_bits(weight)
    out = np.empty(weight.shape, np.float32)
    _add(raw, shift, factors.up[start : start + len(weight)], factors.down, out)
    return out


@kernel
def _four(sums, u0, u1, u2, u3, d0, d1, d2, d3):  # type: ignore[no-untyped-def]
    for j in range(sums.size):
        sums[j] = (((sums[j] + u0 * d0[j]) + u1 * d1[j]) + u2 * d2[j]) + u3 * d3[j]


@kernel
def _onto(raw, shift, sums, word):  # type: ignore[no-untyped-def]
    real = word.view(np.float32)
    for j in range(sums.size):
        word[j] = np.uint32(raw[j]) << shift
    for j in range(sums.size):
        sums[j] += real[j]


@kernel
def _add(raw, shift, up, down, out):  # type: ignore[no-untyped-def]
    word = np.empty(TILE, np.uint32)
    rows, n = raw.shape
    for left in range(0, n, TILE):
        right = min(left + TILE, n)
        for r in range(rows):
            sums = out[r, left:right]
            sums[:] = np.float32(0.0)
            for k in range(0, down.shape[0], UNROLL):
                u0, u1, u2, u3 = up[r, k], up[r, k + 1], up[r, k + 2], up[r, k + 3]
                d0, d1 = down[k, left:right], down[k + 1, left:right]
                d2, d3 = down[k + 2, left:right], down[k + 3, left:right]
                _four(sums, u0, u1, u2, u3, d0, d1, d2, d3)
            _onto(raw[r, left:right], shift, sums, word)
