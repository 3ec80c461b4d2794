"""Solvers: weights -> codes and scales. A new one is a file here and a line in SOLVERS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..schema import BITS, GROUP, Mode
from . import binary, ternary
from .grid import LARGEST, LARGEST_BINARY, round_to_grid
from .nearest import assign

SOLVERS: dict[str, dict[str, Callable[[np.ndarray], np.ndarray]]] = {
    "exact": {"ternary": ternary.scales, "binary": binary.scales},
    "absmean": {"ternary": binary.scales, "binary": binary.scales},
}
"""name -> mode -> function(weight) -> scales [rows, in / 128] float64, not yet on the grid."""


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


def solve(weight: np.ndarray, solver: str, mode: Mode, bits: int | None = None) -> Solved:
    """weight: [rows, in] finite, uint16 (bf16 bits) or float32; in a multiple of 128.

    The scale is rounded to the grid once, then the codes are chosen again for it. A scale above the
    grid comes back as inf, for the caller to refuse with the tensor's name.
    """
    if weight.shape[1] % GROUP:
        raise ValueError(f"in = {weight.shape[1]} is not a multiple of {GROUP}")
    scales, below = round_to_grid(
        SOLVERS[solver][mode](weight), LARGEST if mode == "ternary" else LARGEST_BINARY
    )
    codes, sums = assign(weight, scales, mode, bits or BITS[mode])
    with np.errstate(over="ignore"):
        return Solved(codes, scales.astype(np.float16), sums, below.sum(1))
