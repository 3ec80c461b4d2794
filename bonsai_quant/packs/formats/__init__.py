"""Formats: one file each, both ways. A new one is a file here and a row in FORMATS.

A format only permutes and repacks; it never rounds. `decode` is the exact inverse of `encode`, and
refuses values that no pack may hold.
"""

from __future__ import annotations

from .bonsai import BonsaiFormat
from .comfyui import ComfyuiFormat
from .comfyui_packed import ComfyuiPackedFormat
from .diffusers import DiffusersFormat
from .format import Format
from .gemlite import GemliteFormat
from .gguf import GgufFormat
from .gguf_prism import GgufPq2Format, GgufPtq1Format
from .mlx import MlxFormat
from .onnx import OnnxFormat
from .sdnq import SdnqFormat
from .unpacked import UnpackedFormat

_ROWS: tuple[Format, ...] = (
    BonsaiFormat(),
    MlxFormat(),
    GemliteFormat(),
    DiffusersFormat(),
    SdnqFormat(),
    UnpackedFormat(),
    GgufFormat(),
    GgufPq2Format(),
    GgufPtq1Format(),
    ComfyuiFormat(),
    ComfyuiPackedFormat(),
    OnnxFormat(),
)
FORMATS = {row.name: row for row in _ROWS}
FORMAT_NAMES = tuple(FORMATS)
DEFAULT_FORMATS = tuple(row.name for row in _ROWS if row.by_default)

__all__ = ["DEFAULT_FORMATS", "FORMATS", "FORMAT_NAMES", "Format"]
