"""Scales at the true optimum of min ||w - s t||^2 per group, and the nearest codes."""

from __future__ import annotations

import numpy as np

from bonsai_quant.core.schema import Mode
from bonsai_quant.quantization.hessian import Hessian

from . import binary, ternary
from .nearest import with_nearest_codes
from .solver import Solved


def solve(weight: np.ndarray, mode: Mode, bits: int, hessian: Hessian | None) -> Solved:
    """See `solver.Solve`; the Hessian is not used."""
    scales = ternary.scales(weight) if mode == "ternary" else binary.scales(weight)
    return with_nearest_codes(weight, scales, mode, bits)
