"""Pictures that a prompt refers to, read and brought to a size that the model takes."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bonsai_quant.core.errors import BadInput
from bonsai_quant.storage import fs

from .sampling import PIXELS

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_AREA = 1024 * 1024
MIN_SIDE, MAX_RATIO = 64, 8
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
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_RATIO * min(width, height):
        raise BadInput(
            f"is {width} x {height} pixels; sides of at least {MIN_SIDE}, none more than "
            f"{MAX_RATIO} times the other, are taken",
            where=str(path),
            hint="give another",
        )
    if width * height > MAX_AREA:
        scale = math.sqrt(MAX_AREA / (width * height))
        size = int(width * scale), int(height * scale)
        image = image.resize(size, Image.Resampling.LANCZOS)
    return np.asarray(_crop(image), np.float32) / 127.5 - 1


def _crop(image: Image) -> Image:
    """The middle of a picture, its sides multiples of 16."""
    width, height = (n // PIXELS * PIXELS for n in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
