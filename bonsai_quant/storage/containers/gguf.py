"""The GGUF container: what its types weigh, and a header laid out the same way every time.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. A file is

    magic, version, counts | metadata | name, axes, type and offset of each tensor | padding | data

all little-endian. Axes are listed fastest first, the reverse of numpy's order. Each tensor starts
at a multiple of the alignment, right after the one before it, and the last is padded too.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bonsai_quant.core.errors import Unsupported

MAGIC = b"GGUF"
VERSION = 3
ALIGN = 32
MAX_NAME = 63
"""Bytes of a tensor's name: ggml has room for 64, with the zero at the end."""
MAX_AXES = 4
UINT32, STRING = 4, 8
"""The types of metadata values that are written here."""


class Kind(NamedTuple):
    """A ggml type: `size` bytes hold a block of `weights` consecutive weights of a row."""

    code: int
    weights: int
    size: int


KINDS: dict[str, Kind] = {
    "F32": Kind(0, 1, 4),
    "F16": Kind(1, 1, 2),
    "Q4_0": Kind(2, 32, 18),
    "Q4_1": Kind(3, 32, 20),
    "Q5_0": Kind(6, 32, 22),
    "Q5_1": Kind(7, 32, 24),
    "Q8_0": Kind(8, 32, 34),
    "Q2_K": Kind(10, 256, 84),
    "Q3_K": Kind(11, 256, 110),
    "Q4_K": Kind(12, 256, 144),
    "Q5_K": Kind(13, 256, 176),
    "Q6_K": Kind(14, 256, 210),
    "IQ2_XXS": Kind(16, 256, 66),
    "IQ2_XS": Kind(17, 256, 74),
    "IQ3_XXS": Kind(18, 256, 98),
    "IQ1_S": Kind(19, 256, 50),
    "IQ4_NL": Kind(20, 32, 18),
    "IQ3_S": Kind(21, 256, 110),
    "IQ2_S": Kind(22, 256, 82),
    "IQ4_XS": Kind(23, 256, 136),
    "I8": Kind(24, 1, 1),
    "I16": Kind(25, 1, 2),
    "I32": Kind(26, 1, 4),
    "I64": Kind(27, 1, 8),
    "F64": Kind(28, 1, 8),
    "IQ1_M": Kind(29, 256, 56),
    "BF16": Kind(30, 1, 2),
    "TQ1_0": Kind(34, 256, 54),
    "TQ2_0": Kind(35, 256, 66),
    "MXFP4": Kind(39, 32, 17),
    "NVFP4": Kind(40, 64, 36),
    "Q1_0": Kind(41, 128, 18),
    "Q2_0": Kind(42, 64, 18),
}
"""ggml's types by name, but for Q8_1 and Q8_K, which hold activations and stand in no file."""


OTHER_KINDS: dict[str, Kind] = {"Q2_0/128": Kind(42, 128, 34)}
"""What forks of ggml wrote under a number that ggml has given to another layout since.

Only the sizes of the tensors in a file tell the two apart.
"""
FORK_KINDS: dict[str, Kind] = {"PQ2_0": Kind(142, 128, 34), "PTQ1_0": Kind(143, 128, 28)}
"""Types of PrismML's fork of llama.cpp alone, under numbers far above ggml's."""
OWN_KINDS = KINDS | FORK_KINDS
"""Types whose number stands for nothing else."""
ALL_KINDS = OWN_KINDS | OTHER_KINDS


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """A tensor of a GGUF file. kind: a name of ALL_KINDS.  shape: in numpy's order.

    offset: of its data in the file, in bytes; 0 while it is not laid out.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    offset: int = 0

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape, with bytes in place of weights on the last axis where a block holds many."""
        kind = ALL_KINDS[self.kind]
        if kind.weights == 1:
            return self.shape
        return (*self.shape[:-1], self.shape[-1] // kind.weights * kind.size)

    @property
    def dtype(self) -> str:
        """The dtype of `stored_shape`, as `schema` names it."""
        return self.kind if ALL_KINDS[self.kind].weights == 1 else "U8"

    @property
    def nbytes(self) -> int:
        """Bytes of its data."""
        kind = ALL_KINDS[self.kind]
        return math.prod(self.shape) // kind.weights * kind.size


def padded(size: int, align: int = ALIGN) -> int:
    """The next multiple of the alignment."""
    return size + -size % align


def build_header(
    tensors: Sequence[GgufTensor], metadata: Mapping[str, str | int]
) -> tuple[bytes, list[int]]:
    """Header bytes for tensors in the given order, and the offset of each in the file.

    metadata: text and counts below 2^32, in the order in which they are to stand.
    """
    out = bytearray(MAGIC + struct.pack("<IQQ", VERSION, len(tensors), len(metadata)))
    for key, value in metadata.items():
        if isinstance(value, str):
            out += _text(key) + struct.pack("<I", STRING) + _text(value)
        else:
            out += _text(key) + struct.pack("<II", UINT32, value)
    at, starts = 0, []
    for tensor in tensors:
        _check_writable(tensor)
        starts.append(at)
        axes = tensor.shape[::-1]
        out += _text(tensor.name) + struct.pack(f"<I{len(axes)}Q", len(axes), *axes)
        out += struct.pack("<IQ", OWN_KINDS[tensor.kind].code, at)
        at += padded(tensor.nbytes)
    out += bytes(-len(out) % ALIGN)
    return bytes(out), [len(out) + s for s in starts]


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def _check_writable(tensor: GgufTensor) -> None:
    where = (f"tensor {tensor.name}",)
    if len(tensor.name.encode()) > MAX_NAME:
        raise Unsupported(f"has a name of more than {MAX_NAME} bytes, which ggml does not load",
                          where=where, hint="use another format")  # fmt: skip
    if not 1 <= len(tensor.shape) <= MAX_AXES:
        raise Unsupported(f"has {len(tensor.shape)} axes; ggml has 1 to {MAX_AXES}",
                          where=where, hint="use another format")  # fmt: skip
