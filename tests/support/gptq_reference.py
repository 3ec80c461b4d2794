"""GPTQ, scales refitted together, and codes in turn: in float64, as the solver began."""

from __future__ import annotations

import numpy as np

from bonsai_quant.core.schema import GROUP
from bonsai_quant.quantization.grid import round_to_grid
from bonsai_quant.quantization.solvers.weighted import scales as weighted_scales

ROUNDS, SWEEPS = 3, 2


def reference(w: np.ndarray, h: np.ndarray, mode: str) -> np.ndarray:
    """w: [rows, in], h: damped, [in, in], both float64 -> the objective of every row."""
    t, s = _sweep(w, h, mode)
    for _ in range(ROUNDS):
        t, s = _refit(w, h, t, s)
        _descend(w, h, t, s, mode)
    return objective(w, h, t, s)


def objective(w: np.ndarray, h: np.ndarray, t: np.ndarray, s: np.ndarray) -> np.ndarray:
    """d H d' of every row."""
    off = w - t * np.repeat(s, GROUP, 1)
    return ((off @ h) * off).sum(1)


def nearest(x: np.ndarray, mode: str) -> np.ndarray:
    """The code nearest to x."""
    return np.clip(np.rint(x), -1, 1) if mode == "ternary" else np.where(x >= 0, 1.0, -1.0)


def _sweep(w: np.ndarray, h: np.ndarray, mode: str) -> tuple[np.ndarray, np.ndarray]:
    left, u = w.copy(), np.linalg.cholesky(np.linalg.inv(h)).T
    t, s = np.empty_like(w), np.empty((len(w), w.shape[1] // GROUP))
    for j in range(w.shape[1]):
        g, at = divmod(j, GROUP)
        if at == 0:
            columns = slice(j, j + GROUP)
            best = weighted_scales(left[:, columns], np.diag(u)[columns] ** -2, mode)
            s[:, g] = round_to_grid(best[:, 0])[0]
        t[:, j] = nearest(left[:, j] / s[:, g], mode)
        error = (left[:, j] - s[:, g] * t[:, j]) / u[j, j]
        left[:, j:] -= error[:, None] * u[j, j:]
    return t, s


def _refit(
    w: np.ndarray, h: np.ndarray, t: np.ndarray, s: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    rows, groups = s.shape
    split = t.reshape(rows, groups, GROUP)
    right = (split * (w @ h).reshape(split.shape)).sum(2)
    left = np.empty((rows, groups, groups))
    for g in range(groups):
        product = split[:, g] @ h[g * GROUP : (g + 1) * GROUP]
        left[:, g] = (product.reshape(split.shape) * split).sum(2)
    best = np.linalg.solve(left + 1e-12 * np.eye(groups), right[..., None])[..., 0]
    turned = (split * np.where(best < 0, -1, 1)[..., None]).reshape(t.shape)
    best = round_to_grid(np.abs(best))[0].astype(np.float64)
    better = (objective(w, h, turned, best) < objective(w, h, t, s))[:, None]
    return np.where(better, turned, t), np.where(better, best, s)


def _descend(w: np.ndarray, h: np.ndarray, t: np.ndarray, s: np.ndarray, mode: str) -> None:
    r = (w - t * np.repeat(s, GROUP, 1)) @ h
    for i in [*range(w.shape[1])] * SWEEPS:
        scale = s[:, i // GROUP]
        step = scale * (nearest(t[:, i] + r[:, i] / (scale * h[i, i]), mode) - t[:, i])
        step[step * (step * h[i, i] - 2 * r[:, i]) >= 0] = 0
        t[:, i] += np.rint(step / scale)
        r -= step[:, None] * h[i]
