"""Error feedback: codes and scales that keep a layer's outputs rather than its weights.

The objective is tr (W - W') H (W - W')', H = E[x x'] of the layer's inputs. Rows do not meet.
1. `sweep`, GPTQ (https://arxiv.org/abs/2210.17323): column after column; what rounding one of them
   did to the outputs is made up for by those to come. A group's scale is chosen when the sweep
   reaches it, by the exact weighted search, an error in column j weighing 1 / U_jj^2 by then.
2. `refit`: all scales of a row at once, by the normal equations T' H T s = T' H w.
3. `descend`: code after code, t_i <- the one nearest to t_i + r_i / (s h_ii), r = H (w - w').
No stage after the first makes the objective larger.
"""

from __future__ import annotations

import numpy as np

from bonsai_quant.core.schema import GROUP, Mode
from bonsai_quant.quantization import packing
from bonsai_quant.quantization.bf16 import as_float32
from bonsai_quant.quantization.grid import LARGEST, LARGEST_BINARY, round_to_grid
from bonsai_quant.quantization.hessian import Hessian
from bonsai_quant.quantization.jit import kernel

from .solver import Solved
from .weighted import best_scale

ROUNDS = 3
"""Of refitting and descending."""
SWEEPS = 2
"""Over all codes of a row, in one descent."""


def solve(weight: np.ndarray, mode: Mode, bits: int, hessian: Hessian | None) -> Solved:
    """See `solver.Solve`. Codes are not the nearest ones, so they are packed and measured here."""
    assert hessian is not None
    t, scales, below = choose(weight, hessian, mode)
    w = as_float32(weight).astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        dense = t * np.repeat(scales, GROUP, 1)
        columns = (w * w, (w - dense) ** 2, w * dense, dense * dense, t != 0)
        sums = np.stack([c.sum(1, dtype=np.float64) for c in columns], 1)
        codes = packing.pack((t + 1 if bits == 2 else (t + 1) // 2).astype(np.uint8), bits)
        return Solved(codes, scales.astype(np.float16), sums, below.sum(1))


def choose(
    weight: np.ndarray, hessian: Hessian, mode: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """weight: [rows, in], uint16 or float32 -> t [rows, in] int8, s [rows, in / 128] float64 on the
    grid (inf where it is too large), and where the sweep's best scale was below the grid."""
    w = np.ascontiguousarray(as_float32(weight), np.float64)
    codes, scales, below = sweep(w, hessian, mode)
    if not np.isfinite(scales).all():
        return codes, scales, below
    for _ in range(ROUNDS):
        codes, scales = refit(w, hessian, codes, scales, mode)
        codes = descend(w, hessian, codes, scales, mode)
    return codes, scales, below


def error(w: np.ndarray, hessian: Hessian, codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """The objective of every row: [rows] float64."""
    off = w - codes * np.repeat(scales, GROUP, 1)
    row: np.ndarray = np.einsum("ri,ri->r", off @ hessian.damped, off)
    return row


def sweep(w: np.ndarray, hessian: Hessian, mode: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """w: [rows, in] float64 -> t, s and where s was below the grid, by error feedback."""
    left, u = w.copy(), hessian.factor
    codes = np.empty(w.shape, np.int8)
    scales = np.empty((len(w), w.shape[1] // GROUP))
    below = np.empty(scales.shape, np.bool_)
    for g in range(scales.shape[1]):
        columns = slice(g * GROUP, (g + 1) * GROUP)
        group, spread = (np.ascontiguousarray(a) for a in (left[:, columns], u[columns, columns]))
        best = np.empty(len(w))
        _best_scales(np.abs(group), np.diag(spread) ** -2, mode == "ternary", best)
        scales[:, g], below[:, g] = _on_grid(best, mode)
        errors = np.empty_like(group)
        _round_group(group, scales[:, g], spread, mode == "ternary", codes[:, columns], errors)
        left[:, columns.stop :] -= errors @ u[columns, columns.stop :]
    return codes, scales, below


def refit(
    w: np.ndarray, hessian: Hessian, codes: np.ndarray, scales: np.ndarray, mode: str
) -> tuple[np.ndarray, np.ndarray]:
    """The best scales for these codes, rounded to the grid; rows that would get worse stay."""
    rows, groups = scales.shape
    t = codes.astype(np.float64)
    right = (t * (w @ hessian.damped)).reshape(rows, groups, GROUP).sum(-1)
    left = np.empty((rows, groups, groups))
    for g in range(groups):
        columns = slice(g * GROUP, (g + 1) * GROUP)
        left[:, g] = (
            ((t[:, columns] @ hessian.damped[columns]) * t).reshape(rows, groups, -1).sum(-1)
        )
    # A group of zeros has no equation of its own: keep it solvable.
    trace = np.trace(left, axis1=1, axis2=2)[:, None] / groups + 1e-30
    left[:, np.arange(groups), np.arange(groups)] += 1e-9 * trace
    s = np.linalg.solve(left, right[..., None])[..., 0]
    sign = np.where(s < 0, -1, 1).astype(np.int8)
    turned = (codes.reshape(rows, groups, GROUP) * sign[..., None]).reshape(codes.shape)
    found = _on_grid(np.abs(s), mode)[0]
    found = np.where(np.isfinite(found), found, scales)
    better = error(w, hessian, turned, found) < error(w, hessian, codes, scales)
    return np.where(better[:, None], turned, codes), np.where(better[:, None], found, scales)


def descend(
    w: np.ndarray, hessian: Hessian, codes: np.ndarray, scales: np.ndarray, mode: str
) -> np.ndarray:
    """The same scales, with codes that none alone can be changed of for the better."""
    codes = codes.copy()
    residual = (w - codes * np.repeat(scales, GROUP, 1)) @ hessian.damped
    _descend(residual, hessian.damped, scales, codes, mode == "ternary", SWEEPS)
    return codes


def _on_grid(s: np.ndarray, mode: str) -> tuple[np.ndarray, np.ndarray]:
    rounded, below = round_to_grid(s, LARGEST if mode == "ternary" else LARGEST_BINARY)
    return rounded.astype(np.float64), below


@kernel
def _best_scales(size, h, ternary, out):  # type: ignore[no-untyped-def]
    for r in range(len(out)):
        out[r] = best_scale(size[r], h, ternary)


@kernel
def _nearest(x, ternary):  # type: ignore[no-untyped-def]
    if not ternary:
        return 1.0 if x >= 0 else -1.0
    return 1.0 if x > 0.5 else (-1.0 if x < -0.5 else 0.0)


@kernel
def _round_group(w, scales, u, ternary, codes, errors):  # type: ignore[no-untyped-def]
    """w [rows, 128] -> codes, and errors / U_jj; columns to come take their part of each."""
    for r in range(w.shape[0]):
        s = scales[r]
        for j in range(128):
            t = _nearest(w[r, j] / s, ternary)
            codes[r, j] = np.int8(t)
            e = (w[r, j] - s * t) / u[j, j]
            errors[r, j] = e
            for k in range(j + 1, 128):
                w[r, k] -= e * u[j, k]


@kernel
def _descend(residual, h, scales, codes, ternary, sweeps):  # type: ignore[no-untyped-def]
    rows, n = codes.shape
    for row in range(rows):
        for _ in range(sweeps):
            changed = False
            for i in range(n):
                s, r = scales[row, i // 128], residual[row, i]
                t = np.float64(codes[row, i])
                step = _nearest(t + r / (s * h[i, i]), ternary) - t
                if step * s * (step * s * h[i, i] - 2 * r) >= 0:  # the objective would not fall
                    continue
                codes[row, i] = np.int8(t + step)
                for k in range(n):
                    residual[row, k] -= s * step * h[i, k]
                changed = True
            if not changed:
                break
