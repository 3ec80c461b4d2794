"""What given codes and scales do to weights."""

from __future__ import annotations

import numpy as np

from bonsai_quant.quantization.bf16 import as_float32
from bonsai_quant.quantization.dequantize import decoded

from .solver import Solved

ROWS = 64
"""Rows in float64 at a time."""


def measured(weight: np.ndarray, codes: np.ndarray, scales: np.ndarray, bits: int) -> Solved:
    """weight: [rows, in] uint16 or float32.  codes: [rows, in * bits / 8] uint8.
    scales: [rows, in / 128] float16 -> the rows with their sums, as `nearest.assign` has them."""
    sums = np.empty((len(weight), 5))
    for at in range(0, len(weight), ROWS):
        rows = slice(at, at + ROWS)
        w = as_float32(np.ascontiguousarray(weight[rows])).astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            dense = decoded(codes[rows], scales[rows], bits).astype(np.float64)
            columns = (w * w, (w - dense) ** 2, w * dense, dense * dense, dense != 0)
            for i, column in enumerate(columns):
                sums[rows, i] = column.sum(1, dtype=np.float64)
    return Solved(codes, scales, sums, np.zeros(len(weight), np.int64))
