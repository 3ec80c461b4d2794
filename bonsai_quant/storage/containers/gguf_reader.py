"""A strict reader of GGUF headers.

Stricter than ggml and than the gguf package: no value is allocated before the file is known to hold
it, text is UTF-8, no key or tensor stands twice, no axis is 0, and after the header every byte
belongs to one tensor or pads it. Each message names the file and the tensor or byte.
"""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from bonsai_quant.core.errors import BadInput, Unsupported
from bonsai_quant.storage import fs

from .gguf import ALIGN, MAGIC, MAX_AXES, OWN_KINDS, STRING, UINT32, GgufTensor, padded
from .gguf_places import check_places, of_one_layout
from .magic import describe_magic

VERSIONS = (2, 3)
"""Version 3 allows big-endian files beside what version 2 has; version 1 has other counts."""
MAX_HEADER = 16 << 20
"""Bytes; the real model's header is 11 kB, those of language models hold a vocabulary."""
MAX_TENSORS = MAX_KEYS = 1 << 16
MAX_NAME = 1024
MAX_DIMENSION = 1 << 40
MAX_ALIGN = 1 << 16
SCALARS: dict[int, str] = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
"""Types of metadata values of a fixed size, as `struct` names them."""
BOOL, ARRAY = 7, 9
BY_CODE = {kind.code: name for name, kind in OWN_KINDS.items()}

Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a GGUF file says of itself.

    tensors: in the order of their offsets.  metadata: without the arrays, which are checked only.
    """

    path: Path
    size: int
    metadata: dict[str, Value]
    tensors: tuple[GgufTensor, ...]


def read_gguf(path: Path) -> GgufHeader:
    """Parse and check the header of a GGUF file; reads nothing else."""
    fd, info = fs.open_regular(path)
    try:
        head = bytes(fs.pread(fd, min(info.st_size, MAX_HEADER), 0, path))
    finally:
        os.close(fd)
    return parse_gguf(head, info.st_size, path)


def parse_gguf(head: bytes, size: int, path: Path) -> GgufHeader:
    """`read_gguf` from the first bytes of a file of `size` bytes."""
    cursor = _Cursor(head, path)
    n_tensors, n_keys = _read_counts(cursor)
    metadata: dict[str, Value] = {}
    kinds: dict[str, int] = {}
    for _ in range(n_keys):
        key = cursor.text("a key")
        if not key or len(key) > MAX_NAME or key in kinds:
            cursor.bad(f"has a key that is empty, too long, or stands twice: {key[:80]!r}")
        kinds[key] = cursor.number("I", "the type of a value")
        if kinds[key] == ARRAY:
            _skip_array(cursor)
        else:
            metadata[key] = _read_value(kinds[key], cursor)
    tensors = [_read_tensor(cursor) for _ in range(n_tensors)]
    align = _alignment(metadata, kinds, cursor)
    start = padded(cursor.at, align)
    placed = [replace(t, offset=start + t.offset) for t in tensors]
    placed = of_one_layout(placed, start, align, size, path)
    check_places(placed, start, align, size, path)
    return GgufHeader(path, size, metadata, tuple(placed))


class _Cursor:
    """The header's bytes, and how far they are read."""

    def __init__(self, head: bytes, path: Path) -> None:
        self.head, self.path, self.at = head, path, 0

    def bad(self, what: str) -> NoReturn:
        raise BadInput(what, where=(self.path, f"byte {self.at}"), hint="fetch the file again")

    def take(self, size: int, what: str) -> bytes:
        left = len(self.head) - self.at
        if size > left:
            limit = f", or its header is above {MAX_HEADER}" if len(self.head) >= MAX_HEADER else ""
            self.bad(f"ends within {what}, which takes {size} bytes: {left} are left{limit}")
        self.at += size
        return self.head[self.at - size : self.at]

    def number(self, code: str, what: str) -> int:
        (value,) = struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}"), what))
        return int(value)

    def text(self, what: str) -> str:
        data = self.take(self.number("Q", f"the length of {what}"), what)
        try:
            return data.decode()
        except UnicodeDecodeError:
            self.bad(f"{what} is not UTF-8: {data[:40]!r}")


def _read_counts(cursor: _Cursor) -> tuple[int, int]:
    """Number of tensors and of keys."""
    if not cursor.head.startswith(MAGIC):
        kind = describe_magic(cursor.head[:512])
        cursor.bad(f"is not a GGUF file{' but ' if kind else ''}{kind}")
    cursor.take(len(MAGIC), "the magic")
    version = cursor.number("I", "the version")
    if version and version & 0xFFFF == 0:
        raise Unsupported("holds big-endian numbers", where=str(cursor.path),
                          hint="convert it on a little-endian machine")  # fmt: skip
    if version not in VERSIONS:
        raise Unsupported(f"is GGUF version {version}; versions 2 and 3 are read",
                          where=str(cursor.path), hint="make it anew with newer tools")  # fmt: skip
    n_tensors, n_keys = cursor.number("Q", "the counts"), cursor.number("Q", "the counts")
    if n_tensors > MAX_TENSORS or n_keys > MAX_KEYS:
        cursor.bad(f"announces {n_tensors} tensors and {n_keys} keys; {MAX_TENSORS} are allowed")
    return n_tensors, n_keys


def _read_value(kind: int, cursor: _Cursor) -> Value:
    """A metadata value that is no array."""
    if kind == STRING:
        return cursor.text("a value")
    if kind not in SCALARS:
        cursor.bad(f"has a value of the unknown type {kind}")
    code = SCALARS[kind]
    data = cursor.take(struct.calcsize(f"<{code}"), "a value")
    if kind == BOOL and data not in (b"\0", b"\1"):
        cursor.bad(f"has the truth value {data[0]}")
    (value,) = struct.unpack(f"<{code}", data)
    return value  # type: ignore[no-any-return]


def _skip_array(cursor: _Cursor) -> None:
    kind, count = cursor.number("I", "an array"), cursor.number("Q", "an array")
    if kind == STRING:
        for _ in range(count):  # each takes 8 bytes at least, so the file's end stops a false count
            cursor.text("an array's text")
    elif kind in SCALARS:
        cursor.take(count * struct.calcsize(f"<{SCALARS[kind]}"), "an array")
    else:
        cursor.bad(f"has an array of the type {kind}")


def _read_tensor(cursor: _Cursor) -> GgufTensor:
    """Name, axes, type, and the offset from the start of the data."""
    name = cursor.text("a tensor's name")
    if not name or len(name) > MAX_NAME or not name.isprintable():
        cursor.bad(f"has an illegal tensor name ({len(name)} characters)")
    rank = cursor.number("I", "a tensor's axes")
    if not 1 <= rank <= MAX_AXES:
        _bad(cursor.path, name, f"has {rank} axes; 1 to {MAX_AXES} are allowed")
    shape = tuple(cursor.number("Q", "a tensor's axes") for _ in range(rank))[::-1]
    code, offset = cursor.number("I", "a tensor's type"), cursor.number("Q", "a tensor's offset")
    if not all(0 < d <= MAX_DIMENSION for d in shape):
        _bad(cursor.path, name, f"has the implausible shape {list(shape)}")
    if code not in BY_CODE:
        raise Unsupported(f"is of the ggml type {code}, which is not known here",
                          where=(cursor.path, f"tensor {name}"),
                          hint="see whether a newer version reads it")  # fmt: skip
    weights = OWN_KINDS[BY_CODE[code]].weights
    if shape[-1] % weights:
        _bad(cursor.path, name, f"has rows of {shape[-1]}, not of blocks of {weights} weights")
    if math.prod(shape) > MAX_DIMENSION:
        _bad(cursor.path, name, f"has the implausible shape {list(shape)}")
    return GgufTensor(name, BY_CODE[code], shape, offset)


def _alignment(metadata: dict[str, Value], kinds: dict[str, int], cursor: _Cursor) -> int:
    """Of the data, in bytes."""
    key = "general.alignment"
    value = metadata.get(key, ALIGN)
    if kinds.get(key, UINT32) != UINT32 or not isinstance(value, int):
        cursor.bad("has an alignment that is not of the type uint32")
    if not 0 < value <= MAX_ALIGN or value & (value - 1):
        cursor.bad(f"has the alignment {value}, which is no power of two up to {MAX_ALIGN}")
    return value


def _bad(path: Path, name: str, what: str) -> NoReturn:
    raise BadInput(what, where=(path, f"tensor {name[:80]}"), hint="fetch the file again")
