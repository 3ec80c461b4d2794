"""The safetensors container: a strict header reader, and headers laid out the same way every time.

Format: https://github.com/huggingface/safetensors#format. Stricter than the reference reader: it
refuses duplicate names, aliased ranges, control characters in names and implausible dimensions, and
each message names the file and the tensor.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from bonsai_quant.core.errors import BadInput, Unsupported
from bonsai_quant.core.schema import DTYPE_BYTES, StoredTensor, TensorSpec
from bonsai_quant.storage import fs
from bonsai_quant.storage.strict_json import strict_json

from .magic import describe_magic

NOT_ONE = "give a .safetensors file, or fetch it again"
MAX_HEADER = 16 << 20
"""Bytes; the real model's header is 25 kB. The reference reader allows 100 MB."""
MAX_TENSORS = 1 << 16
"""The real model has 169."""
MAX_NAME = 1024
MAX_DIMENSION = 1 << 40
SUB_BYTE = {"F4", "F6_E2M3", "F6_E3M2"}
ALIGN = 64
"""The data of a file written here starts at a multiple of this."""

FIELDS = {"dtype", "shape", "data_offsets"}


@dataclass(frozen=True, slots=True)
class Header:
    """What a safetensors file says of itself.

    tensors: in the order of their offsets.  extended: names of those with fields unknown here.
    identity: as `fs.identity`, of the very file that was read.
    """

    path: Path
    size: int
    data_start: int
    tensors: tuple[StoredTensor, ...]
    metadata: dict[str, str]
    extended: tuple[str, ...] = ()
    identity: tuple[int, int, int, int] = (0, 0, 0, 0)


def read_header(path: Path) -> Header:
    """Parse and check the header of a safetensors file; reads nothing else."""
    fd, info = fs.open_regular(path)
    try:
        return replace(parse_header(fd, info.st_size, path), identity=fs.identity(info))
    finally:
        os.close(fd)


def parse_header(fd: int, size: int, path: Path) -> Header:
    """`read_header` for a file that is open already. size: of the whole file, in bytes."""
    if size == 0:
        _bad(path, "is an empty file")
    head = fs.pread(fd, min(size, 512), 0, path)
    if size < 8:
        _bad(path, f"is {size} bytes long, too short for a safetensors header")
    (length,) = struct.unpack("<Q", head[:8])
    if length == 0 or length > min(MAX_HEADER, size - 8):
        _refuse_foreign(bytes(head), path)
        _bad(path, _length_problem(length, size), hint=NOT_ONE)
    text = bytes(fs.pread(fd, length, 8, path))
    if text.lstrip(b" \t\r\n")[:1] != b"{":
        _refuse_foreign(bytes(head), path)
    table = _load_json(text, path)
    metadata = _metadata(table.pop("__metadata__", {}), path)
    if len(table) > MAX_TENSORS:
        _bad(path, f"announces {len(table)} tensors, more than the {MAX_TENSORS} allowed")
    tensors = [_tensor(name, entry, 8 + length, path) for name, entry in table.items()]
    tensors.sort(key=lambda t: (t.offset, t.spec.nbytes, t.spec.name))
    _check_contiguous(tensors, 8 + length, size, path)
    extended = tuple(name for name, entry in table.items() if set(entry) - FIELDS)
    return Header(path, size, 8 + length, tuple(tensors), metadata, extended)


def build_header(specs: Iterable[TensorSpec], metadata: dict[str, str]) -> tuple[bytes, list[int]]:
    """Header bytes for tensors in the given order, and the offset of each in the file.

    The JSON is padded with blanks so that the data starts at a multiple of 64 bytes.
    """
    table: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    at, starts = 0, []
    for spec in specs:
        starts.append(at)
        span = [at, at + spec.nbytes]
        table[spec.name] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": span}
        at += spec.nbytes
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGN)
    return struct.pack("<Q", len(text)) + text, [8 + len(text) + s for s in starts]


def _bad(path: Path, what: str, *, tensor: str = "", hint: str = "") -> NoReturn:
    where = (path, f"tensor {tensor}") if tensor else (path,)
    raise BadInput(what, where=where, hint=hint or "fetch the file again")


def _refuse_foreign(head: bytes, path: Path) -> None:
    if kind := describe_magic(head):
        _bad(path, f"is not a safetensors file but {kind}", hint="point to the checkpoint itself")


def _length_problem(length: int, size: int) -> str:
    if length == 0:
        return "has a header of length 0"
    if length > MAX_HEADER:
        return f"announces a header of {length} bytes, more than the {MAX_HEADER} allowed"
    return f"announces a header of {length} bytes but is only {size} bytes long (truncated?)"


def _load_json(text: bytes, path: Path) -> dict[str, Any]:
    try:
        table = strict_json(text)
    except ValueError as e:
        _bad(path, f"header is not JSON: {e}")
    if not isinstance(table, dict):
        _bad(path, f"header is a {type(table).__name__}, not an object")
    return table


def _metadata(value: Any, path: Path) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        _bad(path, "__metadata__ is not an object of strings")
    return value


def _tensor(name: str, entry: Any, data_start: int, path: Path) -> StoredTensor:
    if not name or len(name) > MAX_NAME or not name.isprintable():
        shown = name if len(name) <= 80 else name[:80] + "..."
        _bad(path, f"has an illegal tensor name ({len(name)} characters)", tensor=shown)
    if not isinstance(entry, dict):
        _bad(path, "has no dtype, shape and offsets", tensor=name)
    if missing := sorted(FIELDS - set(entry)):
        _bad(path, f"has no {missing[0]}", tensor=name)
    spec = TensorSpec(name, _dtype(entry["dtype"], name, path), _shape(entry["shape"], name, path))
    start, stop = _offsets(entry["data_offsets"], name, path)
    if stop - start != spec.nbytes:
        shape = list(spec.shape)
        _bad(
            path,
            f"holds {stop - start} bytes, but {spec.dtype} {shape} takes {spec.nbytes}",
            tensor=name,
        )
    return StoredTensor(spec, path, data_start + start)


def _dtype(value: Any, name: str, path: Path) -> str:
    if isinstance(value, str) and value in SUB_BYTE:
        raise Unsupported(
            f"dtype {value} is not supported",
            where=(path, f"tensor {name}"),
            hint="convert from the full-precision checkpoint",
        )
    if not isinstance(value, str) or value not in DTYPE_BYTES:
        _bad(path, f"unknown dtype {str(value)[:40]!r}", tensor=name)
    return value


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _shape(value: Any, name: str, path: Path) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > 8 or not all(_is_count(d) for d in value):
        _bad(path, "shape is not a list of at most 8 counts", tensor=name)
    if any(d > MAX_DIMENSION for d in value):
        _bad(path, f"has a dimension above {MAX_DIMENSION}", tensor=name)
    return tuple(value)


def _offsets(value: Any, name: str, path: Path) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2 or not all(_is_count(o) for o in value):
        _bad(path, "data_offsets is not a pair of counts", tensor=name)
    start, stop = value
    if start > stop:
        _bad(path, f"data_offsets are reversed ({start} > {stop})", tensor=name)
    return start, stop


def _check_contiguous(tensors: list[StoredTensor], data_start: int, size: int, path: Path) -> None:
    """Every byte after the header belongs to exactly one tensor."""
    end, last = data_start, "the header"
    for t in tensors:
        if t.offset < end:
            _bad(path, f"overlaps {last}", tensor=t.spec.name)
        if t.offset > end:
            _bad(
                path,
                f"is preceded by {t.offset - end} bytes that belong to no tensor",
                tensor=t.spec.name,
            )
        end, last = t.offset + t.spec.nbytes, t.spec.name
    if end > size:
        _bad(path, f"is {end - size} bytes too short: {size} of {end} (truncated download?)")
    if end < size:
        _bad(path, f"has {size - end} bytes after the last tensor")
