"""Levels: what `verify` proves. A new one is a file here and a row in LEVELS.

file: every file is the manifest's, and nothing else is there.
codes: every value is legal, and all formats decode to the same float32 weights; with a source, its
weights quantized again give these codes.
kernel: the real kernels of MLX and gemlite on these bytes agree with float64 products.
step: the packed transformer's velocities are those of the dense decoded one; how near the source's.
image: so are the pictures.
"""

from __future__ import annotations

from .codes import check_codes
from .files import check_files
from .images import check_images
from .kernels import check_kernels
from .level import Level
from .requantize import check_against
from .steps import check_steps

_ROWS = (
    Level("file", (check_files,), required=True),  # what is in damaged files proves nothing
    Level("codes", (check_codes, check_against)),
    Level("kernel", (check_kernels,)),
    Level("step", (check_steps,)),
    Level("image", (check_images,)),
)
LEVELS = {row.name: row for row in _ROWS}
"""In order: each level includes the ones before it."""

__all__ = ["LEVELS", "Level"]
