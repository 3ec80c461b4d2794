"""One way to choose codes and scales: what it can do, what it needs, and what it returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bonsai_quant.core.schema import Mode
from bonsai_quant.quantization.hessian import Hessian


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


Solve = Callable[[np.ndarray, Mode, int, Hessian | None], Solved]
"""(weight [rows, in] uint16 or float32, mode, bits of a stored code, hessian) -> the rows, solved.
"""


@dataclass(frozen=True, slots=True)
class Solver:
    """One row of SOLVERS.

    modes: those it can solve.  needs_hessian: it keeps a layer's outputs, so it must know the
    layer's inputs.  hessian_parts: the properties of Hessian that it reads.
    """

    name: str
    modes: tuple[Mode, ...]
    needs_hessian: bool
    solve: Solve
    hessian_parts: tuple[str, ...] = ()

    def prepare(self, hessian: Hessian) -> None:
        """Compute what it reads of a Hessian, once, before threads share it."""
        for part in self.hessian_parts:
            getattr(hessian, part)
