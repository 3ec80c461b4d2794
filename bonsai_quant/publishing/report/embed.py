"""Pictures inside a page."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray

SMALL = 256
"""Pixels of a side up to which a picture is stored exactly."""
QUALITY = 92


def picture_url(pixels: NDArray[np.uint8]) -> str:
    """A data: URL of pixels [height, width, 3]: exact where small, else WebP of high quality."""
    from PIL import Image

    exact = max(pixels.shape[:2]) <= SMALL
    out = io.BytesIO()
    if exact:
        Image.fromarray(pixels).save(out, "PNG", optimize=True)
    else:
        Image.fromarray(pixels).save(out, "WEBP", quality=QUALITY)
    kind = "png" if exact else "webp"
    return f"data:image/{kind};base64," + base64.b64encode(out.getvalue()).decode()
