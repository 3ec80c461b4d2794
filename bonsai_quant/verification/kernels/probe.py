"""Inputs that show any wrong weight, and how far off honest arithmetic may be.

A random x hides a wrong code in a group whose scale is small beside its neighbours'. So each group
is also probed alone. Values of x are 0 or +-m/256 with m in 128..256: 8 significant bits, the same
number in bf16, fp16 and float32. One wrong code then moves y by at least half a scale.
"""

from __future__ import annotations

import numpy as np

GROUP = 128
"""Consecutive inputs that share a scale."""


def probe_rows(in_features: int, *, seed: int) -> np.ndarray:
    """x: [2 * in / 128 + 1, in] float32.

    Row 2g is random within group g and zero outside; row 2g + 1 is 1 at one place of group g, so
    that y is a column of the weight, digit for digit; the last row is random everywhere.
    """
    rng = np.random.default_rng(seed)
    groups = in_features // GROUP
    dense = _random(rng, in_features)
    rows = np.zeros((groups, 2, in_features), np.float32)
    for g in range(groups):
        inside = slice(g * GROUP, (g + 1) * GROUP)
        rows[g, 0, inside] = dense[inside]
        rows[g, 1, g * GROUP + rng.integers(GROUP)] = 1.0
    return np.concatenate([rows.reshape(2 * groups, in_features), _random(rng, in_features)[None]])


def _random(rng: np.random.Generator, n: int) -> np.ndarray:
    """[n] float32: +-m/256, m in 128..255."""
    sign = rng.choice(np.array([-1, 1]), n)
    return (sign * rng.integers(128, 256, n) / 256).astype(np.float32)


def product(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """x: [rows, in], weight: [out, in] float32 -> x @ weight.T: [rows, out] float64."""
    return x.astype(np.float64) @ weight.astype(np.float64).T


def dot_limit(x: np.ndarray, weight: np.ndarray, unit: float) -> np.ndarray:
    """How far off a dot product may be that is summed in any order: [rows, out] float64.

    |error| <= n u sum |x_k w_k|, with n the nonzero terms and u the unit roundoff of the sum.
    https://epubs.siam.org/doi/book/10.1137/1.9780898718027 (Higham, section 3.1)
    """
    terms = np.count_nonzero(x, axis=1)[:, None]
    limit: np.ndarray = terms * unit * product(np.abs(x), np.abs(weight))
    return limit


def worst(actual: np.ndarray, expected: np.ndarray, limit: np.ndarray) -> tuple[float, float]:
    """Error and limit of the element that comes nearest to its limit, or passes it furthest.

    actual, expected, limit: [rows, out]; a NaN or Inf in `actual` is an infinite error.
    """
    error = np.abs(actual.astype(np.float64) - expected)
    error = np.where(np.isfinite(error), error, np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(error == 0, 0.0, error / limit)
    at = np.unravel_index(int(np.argmax(ratio)), ratio.shape)
    return float(error[at]), float(limit[at])


def relative(actual: np.ndarray, expected: np.ndarray) -> float:
    """|actual - expected| / |expected| over all elements; 0 where both are zero."""
    distance = float(np.linalg.norm(actual.astype(np.float64) - expected))
    return distance / (float(np.linalg.norm(expected)) or 1.0)
