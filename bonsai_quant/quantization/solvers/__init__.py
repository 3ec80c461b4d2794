"""Solvers: weights -> codes and scales. A new one is a file here and a row in SOLVERS."""

from __future__ import annotations

from importlib import import_module

import numpy as np

from bonsai_quant.core.schema import BITS, GROUP, MODES, Mode
from bonsai_quant.quantization.hessian import Hessian

from .solver import Solve, Solved, Solver

__all__ = ["CALIBRATED", "SOLVERS", "SOLVER_NAMES", "Solved", "Solver", "solve"]


def _in_file(name: str) -> Solve:
    """The `solve` of a file here, imported by its first call: kernels need numba, names do not."""

    def solve(weight: np.ndarray, mode: Mode, bits: int, hessian: Hessian | None) -> Solved:
        solved: Solved = import_module(f"{__name__}.{name}").solve(weight, mode, bits, hessian)
        return solved

    return solve


_ROWS = (
    Solver("exact", MODES, False, _in_file("exact")),
    Solver("absmean", MODES, False, _in_file("absmean")),
    Solver("weighted", MODES, True, _in_file("weighted"), ("importance",)),
    Solver("gptq", MODES, True, _in_file("gptq"), ("tensor", "factor")),
)
SOLVERS = {row.name: row for row in _ROWS}
SOLVER_NAMES = tuple(SOLVERS)
CALIBRATED = tuple(row.name for row in _ROWS if row.needs_hessian)
"""Solvers that need to know a layer's inputs."""


def solve(
    weight: np.ndarray,
    solver: str,
    mode: Mode,
    bits: int | None = None,
    hessian: Hessian | None = None,
) -> Solved:
    """weight: [rows, in] finite, uint16 (bf16 bits) or float32; in a multiple of 128.

    bits: of a stored code; a binary layer of a ternary pack has 2.
    A scale above the grid comes back as inf, for the caller to refuse with the tensor's name.
    """
    if weight.shape[1] % GROUP:
        raise ValueError(f"in = {weight.shape[1]} is not a multiple of {GROUP}")
    row = SOLVERS[solver]
    if mode not in row.modes:
        raise ValueError(f"{solver} does not solve {mode}")
    if row.needs_hessian and hessian is None:
        raise ValueError(f"{solver} needs a Hessian")
    return row.solve(weight, mode, bits or BITS[mode], hessian)
