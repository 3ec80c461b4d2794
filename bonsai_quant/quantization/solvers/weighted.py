"""Scales of min sum_j h_j (w_j - s t_j)^2 per group: errors count by how large their input is.

The best code for a given s does not depend on h, so the optimum again keeps the largest |w|: with
sums over the k largest, s = sum h|w| / sum h, for the k with the largest (sum h|w|)^2 / sum h.
"""

from __future__ import annotations

import numpy as np

from bonsai_quant.core.schema import GROUP, Mode
from bonsai_quant.quantization.bf16 import as_float32
from bonsai_quant.quantization.hessian import Hessian
from bonsai_quant.quantization.jit import kernel

from .nearest import with_nearest_codes
from .solver import Solved


def solve(weight: np.ndarray, mode: Mode, bits: int, hessian: Hessian | None) -> Solved:
    """See `solver.Solve`; the diagonal of the Hessian is used."""
    assert hessian is not None
    best = scales(weight, hessian.importance, mode)
    return with_nearest_codes(weight, best, mode, bits)


def scales(weight: np.ndarray, importance: np.ndarray, mode: str) -> np.ndarray:
    """weight: [rows, in], uint16 or float32.  importance: [in] -> s [rows, in / 128] float64."""
    w = np.ascontiguousarray(as_float32(weight), np.float64)
    out = np.empty((w.shape[0], w.shape[1] // GROUP))
    _scales(w, importance, mode == "ternary", out)
    return out


@kernel
def _scales(w, h, ternary, out):  # type: ignore[no-untyped-def]
    size = np.empty(128)
    for r in range(out.shape[0]):
        for g in range(out.shape[1]):
            part = h[g * 128 : (g + 1) * 128]
            for j in range(128):
                size[j] = abs(w[r, g * 128 + j])
            out[r, g] = best_scale(size, part, ternary)


@kernel
def best_scale(size, h, ternary):  # type: ignore[no-untyped-def]
    """size, h: [128] float64 >= 0 -> s."""
    if not ternary:
        return np.sum(h * size) / np.sum(h)
    total, weight, best, s = 0.0, 0.0, -1.0, 0.0
    for j in np.argsort(-size):
        total += h[j] * size[j]
        weight += h[j]
        gain = total * total / weight
        if gain > best:
            best, s = gain, total / weight
    return s
