"""Scales that are the mean magnitude of their group, as in BitNet b1.58, for comparison.

In binary mode that is the optimum; in ternary mode it is not (see binary.py).
"""

from __future__ import annotations

import numpy as np

from bonsai_quant.core.schema import Mode
from bonsai_quant.quantization.hessian import Hessian

from . import binary
from .nearest import with_nearest_codes
from .solver import Solved


def solve(weight: np.ndarray, mode: Mode, bits: int, hessian: Hessian | None) -> Solved:
    """See `solver.Solve`; the Hessian is not used."""
    return with_nearest_codes(weight, binary.scales(weight), mode, bits)
