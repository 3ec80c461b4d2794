"""The part of `gptq` that no matrix product can do: the 128 columns of a group, one by one.

Rows do not meet, so that each step is made for all of them at once: by a loop that numba compiles
where they lie in main memory, and by torch on a GPU. Codes of a group are [rows, 128] int8, its
scales [rows] float32, on the grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from bonsai_quant.core.schema import Mode
from bonsai_quant.quantization.grid import LARGEST, LARGEST_BINARY, SMALLEST
from bonsai_quant.quantization.jit import kernel

from . import columns_torch

TENURE = 10
"""Steps that a code stays as it is after it was changed (tabu search, Glover 1989)."""
MOST_STEPS = 256
"""Of one row in one group, at a time."""


def largest(mode: Mode) -> float:
    """The largest scale of the grid."""
    return LARGEST if mode == "ternary" else LARGEST_BINARY


def round_group(
    w: torch.Tensor, passed: torch.Tensor, factor: torch.Tensor, s: torch.Tensor, mode: Mode
) -> torch.Tensor:
    """Codes of a group for these scales, each making up for those before it.

    w: [rows, 128].  passed: d R, [rows, 128], of the errors d of earlier groups.
    factor: R of these columns, [128, 128] upper.
    """
    if w.device.type != "cpu":
        return columns_torch.round_group(w, passed, factor, s, mode == "ternary")
    codes = torch.empty(w.shape, dtype=torch.int8)
    _by_rows(_round, (w, passed, s, codes), factor, mode == "ternary")
    return codes


def descend_group(
    b: torch.Tensor, v: torch.Tensor, h: torch.Tensor, s: torch.Tensor, codes: torch.Tensor,
    mode: Mode, patience: int,
) -> None:  # fmt: skip
    """Change scale and codes of a group, in place, so that the objective falls.

    b: (w - s t) H + s t H_gg of these columns: d H of the row without what this group's codes do.
    v: t H_gg, lost. Both [rows, 128].  h: H_gg, [128, 128].
    patience: steps that may be taken without a new best.
    Codes t cost -2 s p + s^2 q, p = t b', q = t v', and so -p^2 / q with their best scale p / q.
    One after the other, the code is changed that lowers this most. At the end the scale goes to
    the grid; where that is not lower than at the beginning, all stays as it was.
    """
    top, rest = largest(mode), (TENURE, MOST_STEPS, patience)
    if b.device.type != "cpu":
        columns_torch.descend_group(b, v, h, s, codes, mode == "ternary", top, *rest)
        return
    _by_rows(_descend, (b, v, s, codes), h, mode == "ternary", top, *rest)


def _by_rows(
    loop: Callable[..., None], rows: tuple[torch.Tensor, ...], shared: torch.Tensor, *more: Any
) -> None:
    """Run a compiled loop, as many rows at once as torch has threads."""
    threads = torch.get_num_threads()
    fixed = shared.contiguous().numpy()
    parts = zip(*(np.array_split(x.contiguous().numpy(), threads) for x in rows), strict=True)
    if threads == 1:
        loop(*next(parts), fixed, *more)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(lambda part: loop(*part, fixed, *more), parts):
            pass


@kernel
def _round(w, passed, scales, codes, factor, ternary):  # type: ignore[no-untyped-def]
    n = w.shape[1]
    sums = np.empty(n, np.float32)
    for row in range(len(w)):
        s = scales[row]
        sums[:] = passed[row]
        for j in range(n):
            x = (w[row, j] + sums[j] / factor[j, j]) / s
            if ternary:
                t = np.float32(1) if x > 0.5 else np.float32(-1 if x < -0.5 else 0)
            else:
                t = np.float32(1 if x >= 0 else -1)
            codes[row, j] = np.int8(t)
            d = w[row, j] - s * t
            for k in range(j, n):
                sums[k] += d * factor[j, k]


@kernel
def _descend(b, v, scales, codes, h, ternary, top, tenure, most, patience):  # type: ignore[no-untyped-def]
    n, far = len(h), np.float32(1 if ternary else 2)
    t, gain, bar = np.empty(n, np.float32), np.empty(n, np.float32), np.empty(n, np.float32)
    diagonal, best = np.diag(h).copy(), np.empty(n, np.float32)
    after = np.empty(n, np.float32)
    changed = np.empty(most, np.int64)
    for row in range(len(b)):
        t[:], bar[:] = codes[row], 0
        p, q = _product(t, b[row]), _product(t, v[row])
        best_p, best_q = p, q
        before = scales[row] * (scales[row] * q - 2 * p)
        best[:] = t
        brought, most_brought, idle = 0.0, 0.0, 0
        for step in range(most):
            if step >= tenure:  # what was changed then may be changed again
                bar[changed[step - tenure]] = 0
            at, e = _most_gain(b[row], v[row], t, p, q, far, diagonal, bar, gain, after)
            if gain[at] <= 0 and idle >= patience:
                break
            brought += gain[at]
            p += np.float64(e) * b[row, at]
            q += np.float64(e) * (2 * np.float64(v[row, at]) + e * h[at, at])
            t[at] += e
            changed[step], bar[at] = at, -np.inf
            for k in range(n):
                v[row, k] += e * h[at, k]
            idle += 1
            if brought > most_brought:
                most_brought, idle, best_p, best_q = brought, 0, p, q
                best[:] = t
            elif idle > patience:
                break
        s = _on_grid(best_p, best_q, top)
        if s * (s * best_q - 2 * best_p) < before:
            scales[row], codes[row] = s, best.astype(np.int8)


@kernel
def _product(x, y):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(len(x)):
        total += np.float64(x[i]) * np.float64(y[i])
    return total


@kernel
def _most_gain(b, v, t, p, q, far, diagonal, bar, gain, after):  # type: ignore[no-untyped-def]
    """What changing each code would add to p^2 / q; -> the code that adds most, and its step."""
    s = np.float32(p / q) if q > 0 else np.float32(0)
    twice, energy, q32 = np.float32(2 * p), np.float32(p * s), np.float32(q)
    for i in range(len(b)):
        r = b[i] - s * v[i]
        way = np.float32(1) if r > 0 else np.float32(-1)
        e = way if t[i] == 0 else -far * t[i]
        more = b[i] * b[i] - energy * diagonal[i]
        left = q32 + e * (np.float32(2) * v[i] + e * diagonal[i])
        some = left > np.float32(1e-6) * diagonal[i]  # or no code would be left
        gain[i] = e * (twice * r + e * more) + bar[i] if some else np.float32(-np.inf)
        after[i] = left if some else np.float32(1)
    np.divide(gain, after, gain)
    at, top = 0, np.float32(-np.inf)
    for i in range(0, len(b), 8):
        eight = max(
            max(max(gain[i], gain[i + 1]), max(gain[i + 2], gain[i + 3])),
            max(max(gain[i + 4], gain[i + 5]), max(gain[i + 6], gain[i + 7])),
        )
        if eight > top:
            top, at = eight, i
    for _ in range(7):
        at += gain[at] != top
    step = -far * t[at] if t[at] != 0 else np.float32(1 if b[at] - s * v[at] > 0 else -1)
    return at, step


@kernel
def _on_grid(p, q, top):  # type: ignore[no-untyped-def]
    """The scale of the grid nearest to p / q."""
    if not p > SMALLEST * q:
        return np.float32(SMALLEST)
    mantissa, exponent = math.frexp(min(p / q, top) if q > 0 else top)
    return np.float32(math.ldexp(np.rint(mantissa * 256.0), exponent - 8))
