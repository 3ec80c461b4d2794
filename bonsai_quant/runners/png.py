"""A picture as the bytes of a PNG file."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray


def encode_png(pixels: NDArray[np.uint8], parameters: dict[str, Any] | None = None) -> bytes:
    """pixels: [height, width, 3].  parameters: stored with it, as JSON in the text `parameters`."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    if parameters is not None:
        info.add_text("parameters", json.dumps(parameters, ensure_ascii=True, sort_keys=True))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()
