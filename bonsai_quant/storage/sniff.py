"""Say what a file really is when it is not what it was taken for."""

from __future__ import annotations

MAGIC: tuple[tuple[bytes, str], ...] = (
    (
        b"version https://git-lfs",
        "a Git LFS pointer: the weights were never fetched (git lfs pull)",
    ),
    (b"GGUF", "a GGUF file"),
    (b"PK\x03\x04", "a zip archive (a PyTorch .pt or .ckpt?)"),
    (b"\x80\x02", "a Python pickle"),
    (b"\x80\x04", "a Python pickle"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"%PDF", "a PDF"),
)


def describe_magic(head: bytes) -> str:
    """Name of the format that `head`, the first bytes of a file, belongs to; '' if not known."""
    for magic, kind in MAGIC:
        if head.startswith(magic):
            return kind
    start = head.lstrip()[:15].lower()
    if start.startswith((b"<!doctype html", b"<html", b"<?xml")):
        return "a web page (a login or error page saved under this name?)"
    return ""
