"""Changes to pairs of layers that cancel out: what one does to a channel, the next undoes.

Weights are [out, in] float64; a channel between two layers is a row of the first and a column of
the second. Every function returns new weights; nothing is left to undo when the model runs.
"""

from __future__ import annotations

import numpy as np

HEAD = 128
"""Channels of an attention head, which is also the group of a scale."""


def balance(spread: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """d = sqrt(a / c), of geometric mean 1: what the column that reads a channel is scaled by.

    spread: a, root mean square of the channel's values.  columns: c, of the consumer's column.
    With one scale for all columns of a group, d makes sum_j a_j^2 / d_j^2 sum_j c_j^2 d_j^2, the
    error of the outputs, as small as it gets.
    """
    safe = [np.maximum(v, 1e-6 * (v.max() or 1.0)) for v in (spread, columns)]
    log = (np.log(safe[0]) - np.log(safe[1])) / 2
    scale: np.ndarray = np.exp(log - log.mean())
    return scale


def hadamard(n: int = HEAD) -> np.ndarray:
    """Orthogonal [n, n] of entries +-1 / sqrt(n), n a power of two: it spreads channels out."""
    h = np.ones((1, 1))
    while len(h) < n:
        h = np.block([[h, h], [h, -h]])
    h /= np.sqrt(n)
    return h


def rms(weight: np.ndarray) -> np.ndarray:
    """Root mean square of every column."""
    size: np.ndarray = np.sqrt(np.mean(np.square(weight), 0))
    return size


def mix_heads(
    values: list[np.ndarray], outs: list[np.ndarray], spread: np.ndarray
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """V -> M V and O -> O M^-1 with M = H D^-1 for every head, D balanced, H Hadamard's.

    An attention's output is linear in its values, head by head. values: [heads * 128, in] of all
    streams that attend together; outs: [out, heads * 128] of all that read them; spread: [heads *
    128], root mean square of what they read.
    """
    values, outs = [v.copy() for v in values], [o.copy() for o in outs]
    h = hadamard()
    for start in range(0, len(spread), HEAD):
        part = slice(start, start + HEAD)
        d = balance(spread[part], rms(np.concatenate([o[:, part] for o in outs])))
        for v in values:
            v[part] = h @ (v[part] / d[:, None])
        for o in outs:
            o[:, part] = (o[:, part] * d) @ h.T
    return values, outs


def scale_hidden(
    up: np.ndarray, down: np.ndarray, spread: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """U -> D^-1 U and W -> W D: what is multiplied by the gate may be scaled, the gate may not."""
    d = balance(spread, rms(down))
    return up / d[:, None], down * d


def sort_hidden(
    gate: np.ndarray, up: np.ndarray, down: np.ndarray, size: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The hidden channels in falling order of `size`, so that like columns share a group."""
    order = np.argsort(-size, kind="stable")
    return gate[order], up[order], down[:, order]
