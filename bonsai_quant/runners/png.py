"""A picture as the bytes of a PNG file."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray


def encode_png(pixels: NDArray[np.uint8], texts: dict[str, str] | None = None) -> bytes:
    """pixels: [height, width, 3].  texts: stored with it, by keyword."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for keyword, text in (texts or {}).items():
        info.add_text(keyword, text)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()
