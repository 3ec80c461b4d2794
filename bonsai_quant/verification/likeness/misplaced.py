"""Does a row or group resemble another one of the source more than its own?"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

MOST = 256
"""Suspects that are compared with all others: those with the lowest cosines."""


class Found(NamedTuple):
    """A vector of the pack that is another one of the source: the two places, and the cosine."""

    at: int
    source: int
    cosine: float


def misplaced(
    suspects: np.ndarray,
    own: np.ndarray,
    vectors: np.ndarray,
    others: Iterable[tuple[int, np.ndarray]],
    n: int,
    margin: float,
) -> Found | None:
    """The suspect that most resembles a vector of the source which is not its own, or None.

    suspects: their places.  own: their cosines with their own.  vectors: of the pack, [places, d].
    others: all n vectors of the source, as (place of the first, [some, d]).
    margin: above what the best of as many random vectors would reach, sqrt(2 ln(n suspects) / d).
    """
    ours = _unit(vectors)
    best, where = np.full(len(suspects), -1.0), np.zeros(len(suspects), int)
    for first, block in others:
        cosines = ours @ _unit(block).T
        here = (suspects >= first) & (suspects < first + len(block))
        cosines[here, suspects[here] - first] = -1.0
        at = cosines.argmax(1)
        found = cosines[np.arange(len(at)), at]
        better = found > best
        best[better], where[better] = found[better], first + at[better]
    chance = math.sqrt(2 * math.log(max(2, n * len(suspects))) / vectors.shape[1])
    certain = (best > chance + margin) & (best > own + margin)
    if not certain.any():
        return None
    i = int(np.where(certain, best, -1.0).argmax())
    return Found(int(suspects[i]), int(where[i]), float(best[i]))


def suspected(cosines: np.ndarray, valid: np.ndarray, below: float) -> np.ndarray:
    """Places [suspects] of the lowest cosines, at most MOST. cosines, valid: flat."""
    places = np.flatnonzero((cosines < below) & valid)
    return places[np.argsort(cosines[places], kind="stable")[:MOST]]


def _unit(x: np.ndarray) -> np.ndarray:
    size = np.linalg.norm(x, axis=1, keepdims=True)
    unit: np.ndarray = x / np.where(size > 0, size, 1.0)
    return unit
