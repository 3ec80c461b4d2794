"""Pictures that a prompt refers to: brought to a size that the model takes, and given a place.

The model sees them as further tokens, each picture at a time of its own in the rotary positions.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bonsai_quant.core.errors import BadInput
from bonsai_quant.storage import fs

from .sampling import PIXELS

Reference = NDArray[np.float32]
"""Latents of a picture [rows, columns, channels]."""

LARGEST_AREA = 1024 * 1024
LEAST_SIDE, MOST_RATIO = 64, 8
FIRST_TIME, TIME_STEP = 10, 10
MAX_BYTES = 64 << 20


def read_picture(path: Path) -> NDArray[np.float32]:
    """[height, width, 3] in -1 to 1: at most a million pixels, sides cut to multiples of 16."""
    from PIL import Image

    data = fs.read_small(path, MAX_BYTES)
    try:
        with Image.open(io.BytesIO(data)) as opened:
            image = opened.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as e:
        reason = " ".join(str(e).split())[:200]
        raise BadInput(
            f"is no readable picture: {reason}", where=str(path), hint="give another"
        ) from e
    width, height = image.size
    if min(width, height) < LEAST_SIDE or max(width, height) > MOST_RATIO * min(width, height):
        raise BadInput(
            f"is {width} x {height} pixels; sides of at least {LEAST_SIDE}, none more than "
            f"{MOST_RATIO} times the other, are taken",
            where=str(path),
            hint="give another",
        )
    if width * height > LARGEST_AREA:
        scale = math.sqrt(LARGEST_AREA / (width * height))
        width, height = int(width * scale), int(height * scale)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    wide, high = (n // PIXELS * PIXELS for n in (width, height))
    left, top = (width - wide) // 2, (height - high) // 2
    cut = image.crop((left, top, left + wide, top + high))
    return np.asarray(cut, np.float32) / 127.5 - 1


def position_ids(rows: int, columns: int, references: Sequence[Reference]) -> NDArray[np.int64]:
    """[tokens, 4]: time, row, column and word of the picture's tokens and of the references'."""
    grids = [_grid(0, rows, columns)]
    for i, z in enumerate(references):
        grids.append(_grid(FIRST_TIME + TIME_STEP * i, *z.shape[:2]))
    return np.concatenate(grids)


def _grid(time: int, rows: int, columns: int) -> NDArray[np.int64]:
    found = np.indices((1, rows, columns, 1)).reshape(4, -1).T
    found[:, 0] = time
    return found


def with_references(z: NDArray[np.float32], references: Sequence[Reference]) -> NDArray[np.float32]:
    """[n, rows, columns, channels] -> tokens [n, all of them, channels]."""
    n, channels = len(z), z.shape[-1]
    tokens = [z.reshape(n, -1, channels)]
    tokens += [np.repeat(r.reshape(1, -1, channels), n, 0) for r in references]
    return np.concatenate(tokens, 1)
