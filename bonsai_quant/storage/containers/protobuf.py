"""Protocol buffers on the wire: just what ONNX's messages need, the same bytes every time.

A message is a run of fields: a key, which holds the field's number and the kind of its value, and
the value. See https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""The kinds of values; 3 and 4, groups, are in no file of today."""
LONGEST_VARINT = 10
"""Bytes of a number of 64 bits."""
WORD = 1 << 64

Value = int | bytes
"""A number, or the bytes of a text, of a message or of a fixed-size number."""


class Malformed(ValueError):
    """Bytes that are no message."""


def varint(number: int) -> bytes:
    """A number of 64 bits, negative ones as two's complement; seven bits a byte, lowest first."""
    left, out = number % WORD, bytearray()
    while left > 0x7F:
        out.append(left & 0x7F | 0x80)
        left >>= 7
    out.append(left)
    return bytes(out)


def number_field(field: int, number: int) -> bytes:
    """A field that holds a number."""
    return varint(field << 3 | VARINT) + varint(number)


def bytes_field(field: int, data: bytes | str) -> bytes:
    """A field that holds text, bytes, or a message."""
    data = data.encode() if isinstance(data, str) else data
    return varint(field << 3 | BYTES) + varint(len(data)) + data


def float_field(field: int, number: float) -> bytes:
    """A field that holds a float32."""
    return varint(field << 3 | FIXED32) + struct.pack("<f", number)


def fields(data: memoryview) -> Iterator[tuple[int, Value]]:
    """(number, value) of a message's fields, in their order. Raises Malformed."""
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        field, kind = key >> 3, key & 7
        if field == 0:
            raise Malformed("a field has the number 0")
        if kind == VARINT:
            number, at = _read_varint(data, at)
            yield field, number
            continue
        if kind == BYTES:
            size, at = _read_varint(data, at)
        elif kind in (FIXED32, FIXED64):
            size = 4 if kind == FIXED32 else 8
        else:
            raise Malformed(f"field {field} is of the kind {kind}")
        if size > len(data) - at:
            raise Malformed(f"field {field} takes {size} bytes: {len(data) - at} are left")
        yield field, bytes(data[at : at + size])
        at += size


def signed(number: int) -> int:
    """The number that 64 bits stand for when they are signed."""
    return number - WORD if number >= WORD >> 1 else number


def _read_varint(data: memoryview, at: int) -> tuple[int, int]:
    """-> the number, and where what follows it begins."""
    number = 0
    for k in range(LONGEST_VARINT):
        if at + k >= len(data):
            raise Malformed("ends within a number")
        number |= (data[at + k] & 0x7F) << 7 * k
        if data[at + k] < 0x80:
            if number >= WORD:
                break
            return number, at + k + 1
    raise Malformed("has a number of more than 64 bits")
