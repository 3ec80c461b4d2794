"""Formats: one file each, both ways. A new one is a file here, a line in FORMATS and its name in
`schema.FORMAT_NAMES`.

A format only permutes and repacks; it never rounds. `decode` is the exact inverse of `encode`, and
refuses values that no pack may hold.
"""

from __future__ import annotations

from .bonsai import BonsaiFormat
from .format import Format
from .gemlite import GemliteFormat
from .gguf import GgufFormat
from .mlx import MlxFormat
from .unpacked import UnpackedFormat

FORMATS: dict[str, Format] = {
    "bonsai": BonsaiFormat(),
    "mlx": MlxFormat(),
    "gemlite": GemliteFormat(),
    "unpacked": UnpackedFormat(),
    "gguf": GgufFormat(),
}

__all__ = ["FORMATS", "Format"]
