"""Solvers: weights -> codes and scales. A new one is a file here and a line in SOLVERS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bonsai_quant.core.schema import BITS, CALIBRATED, GROUP, Mode
from bonsai_quant.quantization import packing as bit_packing
from bonsai_quant.quantization.bf16 import as_float32
from bonsai_quant.quantization.grid import LARGEST, LARGEST_BINARY, round_to_grid
from bonsai_quant.quantization.hessian import Hessian

from . import binary, gptq, ternary, weighted
from .nearest import assign

SOLVERS: dict[str, dict[str, Callable[[np.ndarray], np.ndarray]]] = {
    "exact": {"ternary": ternary.scales, "binary": binary.scales},
    "absmean": {"ternary": binary.scales, "binary": binary.scales},
}
"""name -> mode -> function(weight) -> scales [rows, in / 128] float64, not yet on the grid.

`weighted` and `gptq` need a guide besides: see `solve`.
"""


@dataclass(frozen=True, slots=True)
class Solved:
    """Some rows of a layer, solved.

    codes: [rows, in * bits / 8] uint8.  scales: [rows, in / 128] float16.
    sums: [rows, 5] float64, as `nearest.assign` measures them.
    below: [rows] int64, groups whose best scale was below the grid.
    """

    codes: np.ndarray
    scales: np.ndarray
    sums: np.ndarray
    below: np.ndarray


def solve(
    weight: np.ndarray,
    solver: str,
    mode: Mode,
    bits: int | None = None,
    hessian: Hessian | None = None,
) -> Solved:
    """weight: [rows, in] finite, uint16 (bf16 bits) or float32; in a multiple of 128.

    The scale is rounded to the grid once, then the codes are chosen again for it. A scale above the
    grid comes back as inf, for the caller to refuse with the tensor's name.
    """
    if weight.shape[1] % GROUP:
        raise ValueError(f"in = {weight.shape[1]} is not a multiple of {GROUP}")
    if solver in CALIBRATED and hessian is None:
        raise ValueError(f"{solver} needs a guide")
    if solver == "gptq" and hessian is not None:
        return _by_feedback(weight, hessian, mode, bits or BITS[mode])
    best = (
        SOLVERS[solver][mode](weight)
        if hessian is None
        else weighted.scales(weight, hessian.importance, mode)
    )
    scales, below = round_to_grid(best, LARGEST if mode == "ternary" else LARGEST_BINARY)
    codes, sums = assign(weight, scales, mode, bits or BITS[mode])
    with np.errstate(over="ignore"):
        return Solved(codes, scales.astype(np.float16), sums, below.sum(1))


def _by_feedback(weight: np.ndarray, hessian: Hessian, mode: Mode, bits: int) -> Solved:
    """Codes that are not the nearest ones: packed and measured here."""
    t, scales, below = gptq.solve(weight, hessian, mode)
    w = as_float32(weight).astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        dense = t * np.repeat(scales, GROUP, 1)
        columns = (w * w, (w - dense) ** 2, w * dense, dense * dense, t != 0)
        sums = np.stack([c.sum(1, dtype=np.float64) for c in columns], 1)
        codes = bit_packing.pack((t + 1 if bits == 2 else (t + 1) // 2).astype(np.uint8), bits)
        return Solved(codes, scales.astype(np.float16), sums, below.sum(1))
