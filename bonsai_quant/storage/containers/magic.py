"""Say what a file really is when it is not what it was taken for."""

from __future__ import annotations

import re

MAGIC: tuple[tuple[bytes, str], ...] = (
    (
        rb"version https://git-lfs",
        "a Git LFS pointer: the weights were never fetched (git lfs pull)",
    ),
    (rb"GGUF", "a GGUF file"),
    (rb"PK\x03\x04", "a zip archive (a PyTorch .pt or .ckpt?)"),
    (rb"\x80[\x02\x03][(\]}c\x8a]|\x80[\x04\x05]\x95", "a Python pickle"),
    (rb"\x1f\x8b\x08", "a gzip archive"),
    (rb"\x93NUMPY", "a NumPy array"),
    (rb"(?s).{257}ustar", "a tar archive"),
    (rb"%PDF", "a PDF"),
    (
        rb"(?i)\s*<(!doctype html|html|\?xml)",
        "a web page (a login or error page saved under this name?)",
    ),
    (rb'\s*\{\s*"[ -~]{5}', "JSON text (an error message saved under this name?)"),
)
"""Patterns that the first bytes of a file match, and what it is then."""


def describe_magic(head: bytes) -> str:
    """Name of the format that `head`, the first bytes of a file, belongs to; '' if not known."""
    return next((kind for magic, kind in MAGIC if re.match(magic, head)), "")
