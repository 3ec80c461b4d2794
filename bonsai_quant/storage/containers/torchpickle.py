"""The pickle inside a `.pt` file, written without pickle: a flat dict of name to tensor.

torch.save needs some twenty opcodes of protocol 2 for it. They are emitted here in the order of
Python's own pickler, memo numbers included, so that data.pkl is the one torch.save would write.
Each item of the dict reads, with memo opcodes left out:

    'name'  _rebuild_tensor_v2 ( ( 'storage' XStorage 'key' 'cpu' numel ) PERSID
                                 0 shape strides False OrderedDict() ) REDUCE
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from bonsai_quant.core.schema import TensorSpec

from .safetensors import MAX_DIMENSION, MAX_NAME

STORAGE: dict[str, str] = {
    "F32": "FloatStorage", "F16": "HalfStorage", "BF16": "BFloat16Storage", "F64": "DoubleStorage",
    "U8": "ByteStorage", "I8": "CharStorage", "I16": "ShortStorage", "I32": "IntStorage",
    "I64": "LongStorage", "BOOL": "BoolStorage",
}  # fmt: skip
"""torch's storage class of each dtype that a `.pt` may hold here."""
STORAGE_DTYPE = {f"torch {name}": dtype for dtype, name in STORAGE.items()}
FLOATS = frozenset(("F16", "BF16", "F32", "F64"))
"""Only these can require a gradient."""

REBUILD, PARAMETER = "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"
ORDERED = "collections OrderedDict"
GLOBALS = frozenset((REBUILD, PARAMETER, ORDERED, *STORAGE_DTYPE))
"""All that a pickle may name, as `module name`."""

MAX_PICKLE = 16 << 20
"""Bytes of data.pkl; 500 tensors take 100 kB."""
MAX_RANK = 8
MAX_NUMEL = 1 << 48
BATCH = 1000
"""Items that Python's pickler puts between a MARK and its SETITEMS."""


@dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """What a pickle says of a storage. key: its entry is `data/<key>`.  numel: elements."""

    dtype: str
    key: str
    numel: int


@dataclass(frozen=True, slots=True, eq=False)
class PickledTensor:
    """What a pickle says of a tensor, its numbers unchecked. start, stride: in elements."""

    storage: Storage
    start: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def problem(spec: TensorSpec) -> str:
    """Why a tensor of this name and shape is not allowed in a `.pt`; '' if it is."""
    if not 0 < len(spec.name) <= MAX_NAME or not spec.name.isprintable():
        return f"has an illegal name ({len(spec.name)} characters)"
    if len(spec.shape) > MAX_RANK or not all(0 <= d <= MAX_DIMENSION for d in spec.shape):
        return f"has a shape that is not at most {MAX_RANK} counts up to {MAX_DIMENSION}"
    if math.prod(max(d, 1) for d in spec.shape) > MAX_NUMEL:  # a 0 does not save torch's product
        return f"has the implausible shape {list(spec.shape)}"
    return ""


def strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Elements from one index of each axis to the next in C order, as torch counts them."""
    return tuple(math.prod(max(d, 1) for d in shape[i + 1 :]) for i in range(len(shape)))


def write_pickle(specs: Sequence[TensorSpec]) -> bytes:
    """data.pkl of a dict of these tensors, the i-th in a storage of its own named `i`."""
    out = _Opcodes()
    out.fresh(b"}")
    if len(specs) == 1:
        out.item(0, specs[0])
        out.text += b"s"
    elif specs:  # a full batch is followed by another, empty if need be
        for start in range(0, len(specs) + 1, BATCH):
            out.text += b"("
            for key, spec in enumerate(specs[start : start + BATCH], start):
                out.item(key, spec)
            out.text += b"u"
    return bytes(out.text + b".")


class _Opcodes:
    """Opcodes so far, and the memo numbers of the constants among them."""

    def __init__(self) -> None:
        self.text = bytearray(b"\x80\x02")
        self.n_memo = 0
        self.known: dict[bytes, int] = {}

    def fresh(self, op: bytes) -> None:
        """An object, and the next memo number for it."""
        self.text += op + _memo_op(b"q", b"r", self.n_memo)
        self.n_memo += 1

    def shared(self, op: bytes) -> None:
        """A constant: spelled out once, then fetched from the memo."""
        if op in self.known:
            self.text += _memo_op(b"h", b"j", self.known[op])
        else:
            self.known[op] = self.n_memo
            self.fresh(op)

    def item(self, key: int, spec: TensorSpec) -> None:
        """Name of a tensor, then the call that rebuilds it."""
        self.fresh(_unicode(spec.name))
        self.shared(_global(REBUILD))
        self.text += b"(("
        self.shared(_unicode("storage"))
        self.shared(_global(f"torch {STORAGE[spec.dtype]}"))
        self.fresh(_unicode(str(key)))
        self.shared(_unicode("cpu"))
        self.text += _integer(math.prod(spec.shape))
        self.fresh(b"t")
        self.text += b"Q" + _integer(0)
        self.integers(spec.shape)
        self.integers(strides(spec.shape))
        self.text += b"\x89"
        self.shared(_global(ORDERED))
        for op in (b")R", b"t", b"R"):
            self.fresh(op)

    def integers(self, values: Sequence[int]) -> None:
        """A tuple. The empty one gets no memo number; up to three items need no MARK."""
        if not values:
            self.text += b")"
            return
        short = len(values) <= 3
        self.text += (b"" if short else b"(") + b"".join(map(_integer, values))
        self.fresh(bytes([0x84 + len(values)]) if short else b"t")


def _memo_op(short: bytes, long: bytes, number: int) -> bytes:
    return short + bytes([number]) if number < 1 << 8 else long + struct.pack("<I", number)


def _unicode(text: str) -> bytes:
    raw = text.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def _global(name: str) -> bytes:
    return b"c" + name.replace(" ", "\n").encode() + b"\n"


def _integer(value: int) -> bytes:
    if value < 1 << 8:
        return struct.pack("<cB", b"K", value)
    if value < 1 << 16:
        return struct.pack("<cH", b"M", value)
    if value < 1 << 31:
        return struct.pack("<ci", b"J", value)
    size = value.bit_length() // 8 + 1  # two's complement: the top bit stays clear
    return struct.pack("<cB", b"\x8a", size) + value.to_bytes(size, "little")
