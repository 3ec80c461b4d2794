"""Pictures as the transformer sees them: one row of tokens, each with its position.

References are further tokens, each picture at a time of its own in the rotary positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Reference = NDArray[np.float32]
"""Latents of a picture that the prompt refers to: [rows, columns, channels]."""

FIRST_TIME, TIME_STEP = 10, 10
"""The time of the first reference, and from each to the next; the picture itself is at 0."""


def with_references(z: NDArray[np.float32], references: Sequence[Reference]) -> NDArray[np.float32]:
    """[n, rows, columns, channels] -> tokens [n, all of them, channels]."""
    n, channels = len(z), z.shape[-1]
    tokens = [z.reshape(n, -1, channels)]
    tokens += [np.repeat(r.reshape(1, -1, channels), n, 0) for r in references]
    return np.concatenate(tokens, 1)


def position_ids(rows: int, columns: int, references: Sequence[Reference]) -> NDArray[np.int64]:
    """[tokens, 4]: time, row, column and text position of the picture's tokens and references'."""
    grids = [_grid(0, rows, columns)]
    for i, z in enumerate(references):
        grids.append(_grid(FIRST_TIME + TIME_STEP * i, *z.shape[:2]))
    return np.concatenate(grids)


def text_position_ids(length: int) -> NDArray[np.int64]:
    """[length, 4]: the same of a caption's tokens, which differ in the last number alone."""
    return np.indices((1, 1, 1, length)).reshape(4, -1).T


def _grid(time: int, rows: int, columns: int) -> NDArray[np.int64]:
    ids = np.indices((1, rows, columns, 1)).reshape(4, -1).T
    ids[:, 0] = time
    return ids
