"""The texts inside a PNG file, read without a picture library.

https://www.w3.org/TR/png-3/#11textinfo: chunks tEXt and iTXt. Compressed texts are left out.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from bonsai_quant.core.errors import BadInput
from bonsai_quant.storage import fs

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_FILE = 256 << 20
"""Bytes; a picture of 2048 x 2048 pixels has at most 13 million."""


def is_png(path: Path) -> bool:
    """Whether a regular file begins as PNG files do."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(SIGNATURE)) == SIGNATURE


def read_texts(path: Path) -> dict[str, str]:
    """Keyword -> text. Refuses a file that is cut or damaged: every chunk is held to its CRC."""
    data = fs.read_small(path, MAX_FILE)
    if not data.startswith(SIGNATURE):
        raise BadInput("is no PNG file", where=str(path), hint="give a .png file")
    texts: dict[str, str] = {}
    at, kind = len(SIGNATURE), b""
    while kind != b"IEND":
        kind, body, at = _chunk(data, at, path)
        if text := _text(kind, body):
            texts.setdefault(*text)
    return texts


def _chunk(data: bytes, at: int, path: Path) -> tuple[bytes, bytes, int]:
    """Kind and content of the chunk at a byte, and the byte after it."""
    if at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end <= len(data):
            body = data[at + 8 : end - 4]
            if struct.unpack_from(">I", data, end - 4)[0] == zlib.crc32(kind + body):
                return kind, body, end
            raise BadInput(
                f"is damaged: the chunk at byte {at} has another checksum",
                where=str(path),
                hint="paint it again",
            )
    raise BadInput(
        f"is cut: a chunk begins at byte {at}, and the file ends at {len(data)}",
        where=str(path),
        hint="paint it again",
    )


def _text(kind: bytes, body: bytes) -> tuple[str, str] | None:
    keyword, _, rest = body.partition(b"\0")
    if kind == b"tEXt":
        return keyword.decode("latin-1"), rest.decode("latin-1")
    if kind != b"iTXt" or rest[:1] != b"\0":
        return None
    *_, text = rest[2:].split(b"\0", 2)
    return keyword.decode("latin-1"), text.decode("utf-8", "replace")
