"""One kept tensor beside the source's: what is wrong with it, and where."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from . import limits
from .sums import cosine

VARIES = 0.02
"""A vector that varies by less, over its mean, has no pattern to compare."""
FEW = 32
"""Nor has a shorter one."""


class KeptLikeness(NamedTuple):
    """cosine: of the tensor.  problem: the first thing that is wrong, or ''."""

    cosine: float
    problem: str


def judge(pack: np.ndarray, source: np.ndarray) -> KeptLikeness:
    """Compare a kept tensor's values with the source's."""
    a, b = source.astype(np.float64), pack.astype(np.float64)
    sums = (a * a).sum(), (b * b).sum(), (a * b).sum()
    near = float(cosine(*map(np.asarray, sums)))
    if not sums[0]:
        return KeptLikeness(near, "is not zero, as the source's is" if sums[1] else "")
    problem = _matrix(a, b, near) if a.ndim > 1 else _vector(a, b)
    return KeptLikeness(near, problem)


def _matrix(a: np.ndarray, b: np.ndarray, near: float) -> str:
    if near < limits.LEAST_KEPT_COSINE:
        return (
            f"has a cosine of {near:.3f} with the source's; after training it has at least "
            f"{limits.LEAST_KEPT_COSINE}"
        )
    size = float(np.linalg.norm(b) / np.linalg.norm(a))
    if not limits.KEPT_SIZE[0] <= size <= limits.KEPT_SIZE[1]:
        return f"is {size:.3g} times as large as the source's"
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    energy, own, product = (a * a).sum(1), (b * b).sum(1), (a * b).sum(1)
    alive = energy > 1e-6 * energy.mean()
    cosines = np.where(alive, cosine(energy, own, product), 1.0)
    if (low := np.flatnonzero(cosines < limits.LEAST_KEPT_ROW)).size:
        row = low[0]
        return f"row {row}: is not the source's, cosine {cosines[row]:.3f}"
    sizes = np.where(alive, np.sqrt(own / np.where(alive, energy, 1.0)), 1.0)
    least, most = limits.KEPT_ROW_SIZE
    wrong = np.flatnonzero((sizes < least) | (sizes > most))
    if wrong.size:
        return f"row {wrong[0]}: is {sizes[wrong[0]]:.3g} times as large as the source's"
    return ""


def _vector(a: np.ndarray, b: np.ndarray) -> str:
    error = float(np.linalg.norm(b - a) / np.linalg.norm(a))
    if error > limits.LARGEST_KEPT_ERROR:
        return f"differs from the source's by {error:.1%}; training leaves less than 20 %"
    if a.size < FEW or not _varies(a):
        return ""
    near = correlation(a, b)
    if near < limits.LEAST_KEPT_CORRELATION:
        return f"has other values than the source's, correlation {near:.2f}"
    return ""


def exchanged(pack: Mapping[str, np.ndarray], source: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Kept vectors of a pack that resemble another vector of the source more than their own.

    Norms of one block are alike: each must be nearest to its own. In the packs that ship the next
    one is 0.048 of correlation further off.
    """
    found = {}
    for name, values in pack.items():
        own = source[name]
        if values.size < FEW or not _varies(own):
            continue
        others = {n: v for n, v in source.items() if n != name and v.shape == own.shape}
        near = {n: correlation(values, v) for n, v in others.items() if _varies(v)}
        nearest = max(near, key=lambda n: near[n], default=None)
        mine = correlation(values, own)
        if nearest is not None and near[nearest] > mine:
            found[name] = (
                f"resembles {nearest} of the source ({near[nearest]:.3f}) more than its own "
                f"({mine:.3f})"
            )
    return found


def _varies(a: np.ndarray) -> bool:
    return float(a.std()) > VARIES * abs(float(a.mean()))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Without the means; 0 where one of them is the same everywhere."""
    x, y = a.astype(np.float64) - a.mean(), b.astype(np.float64) - b.mean()
    size = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / size if size else 0.0
