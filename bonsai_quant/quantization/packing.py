"""Codes to bytes and back: 1-bit, 2-bit and base-3. The only bit twiddling of the project.

In memory codes are held at 1 or 2 bits, least significant bits first along `in`:

    2 bits   byte = c0 | c1 << 2 | c2 << 4 | c3 << 6        (four codes of 0, 1, 2)
    1 bit    byte = c0 | c1 << 1 | ... | c7 << 7            (eight codes of 0, 1)

A row of 32-bit words read little-endian, as MLX does, is the same bytes. The canonical pack holds
ternary codes at 1.6 bits, five to a byte, since 3^5 = 243 <= 256:

    base 3   byte = t0 + 3 t1 + 9 t2 + 27 t3 + 81 t4
"""

from __future__ import annotations

import numpy as np

from .jit import kernel

TRITS = 5
"""Codes in one base-3 byte."""
PAD = 1
"""The code that fills the last base-3 byte of a row: weight zero."""


def unpack(packed: np.ndarray, bits: int) -> np.ndarray:
    """packed: [rows, in * bits / 8] uint8 -> codes: [rows, in] uint8."""
    per_byte = 8 // bits
    shifts = np.arange(per_byte, dtype=np.uint8) * np.uint8(bits)
    codes = (packed[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    flat: np.ndarray = codes.reshape(*packed.shape[:-1], packed.shape[-1] * per_byte)
    return flat


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """codes: [rows, in] uint8, in divisible by 8 / bits -> [rows, in * bits / 8] uint8."""
    per_byte = 8 // bits
    lanes = codes.reshape(*codes.shape[:-1], codes.shape[-1] // per_byte, per_byte)
    shifts = np.arange(per_byte, dtype=np.uint8) * np.uint8(bits)
    packed: np.ndarray = np.bitwise_or.reduce(lanes << shifts, axis=-1).astype(np.uint8)
    return packed


def base3_width(n: int) -> int:
    """Bytes of a row of n codes in base 3."""
    return -(-n // TRITS)


def to_base3(packed: np.ndarray, n: int) -> np.ndarray:
    """packed: [rows, n / 4] uint8 at 2 bits -> [rows, ceil(n / 5)] uint8 in base 3."""
    out = np.empty((packed.shape[0], base3_width(n)), np.uint8)
    _to_base3(packed, n, _TEN_BITS_TO_BYTE, out)
    return out


def from_base3(trits: np.ndarray, n: int) -> np.ndarray:
    """trits: [rows, ceil(n / 5)] uint8, each <= 242 -> [rows, n / 4] uint8 at 2 bits."""
    out = np.zeros((trits.shape[0], n // 4), np.uint8)
    _from_base3(trits, n, _BYTE_TO_TEN_BITS, out)
    return out


def illegal_code(packed: np.ndarray) -> int | None:
    """Flat index of the first 2-bit code that is 3, which no ternary pack may hold; or None."""
    both = packed & (packed >> np.uint8(1)) & np.uint8(0x55)
    where = np.flatnonzero(both)
    if where.size == 0:
        return None
    byte = int(both.reshape(-1)[where[0]])
    lowest = (byte & -byte).bit_length() - 1
    return int(where[0]) * 4 + lowest // 2


def illegal_base3(trits: np.ndarray, n: int) -> int | None:
    """Flat index of the first byte above 242, or whose padding is not code 1; or None."""
    wrong = trits > 242
    for k in range(n % TRITS, TRITS if n % TRITS else 0):
        wrong[:, -1] |= trits[:, -1] // 3**k % 3 != PAD
    where = np.flatnonzero(wrong)
    return int(where[0]) if where.size else None


def _tables() -> tuple[np.ndarray, np.ndarray]:
    """10 bits of five codes -> base-3 byte, and its inverse."""
    fields = np.arange(1024)
    digits = np.stack([(fields >> (2 * k)) & 3 for k in range(TRITS)])
    byte = (digits * 3 ** np.arange(TRITS)[:, None]).sum(0)
    legal = (digits < 3).all(0)
    inverse = np.zeros(256, np.uint16)
    inverse[byte[legal]] = fields[legal]
    return np.where(legal, byte, 0).astype(np.uint8), inverse


_TEN_BITS_TO_BYTE, _BYTE_TO_TEN_BITS = _tables()


@kernel
def _to_base3(packed, n, table, out):  # type: ignore[no-untyped-def]
    rows, width = out.shape
    padding = np.uint32(0x155)  # five codes 1
    for r in range(rows):
        for j in range(width):
            bit = 10 * j
            at = bit >> 3
            word = np.uint32(packed[r, at])
            if at + 1 < packed.shape[1]:
                word |= np.uint32(packed[r, at + 1]) << np.uint32(8)
            field = (word >> np.uint32(bit & 7)) & np.uint32(0x3FF)
            valid = min(5, n - 5 * j)
            if valid < 5:
                mask = np.uint32((1 << (2 * valid)) - 1)
                field = (field & mask) | (padding & ~mask)
            out[r, j] = table[field]


@kernel
def _from_base3(trits, n, table, out):  # type: ignore[no-untyped-def]
    rows, width = trits.shape
    for r in range(rows):
        for j in range(width):
            bit = 10 * j
            at = bit >> 3
            field = np.uint32(table[trits[r, j]])
            valid = min(5, n - 5 * j)
            if valid < 5:
                field &= np.uint32((1 << (2 * valid)) - 1)
            field = field << np.uint32(bit & 7)
            out[r, at] |= np.uint8(field & np.uint32(0xFF))
            if at + 1 < out.shape[1]:
                out[r, at + 1] |= np.uint8(field >> np.uint32(8))
