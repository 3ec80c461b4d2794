"""A strict reader of ONNX models: tensors, operators and metadata; no weights are loaded.

Stricter than the package `onnx`: every tensor in the second file is of one known dtype, has the
bytes that its shape takes, follows the one before it, and the file ends with the last. A location
that is not a plain name beside the model is refused, so that nothing elsewhere can be read.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from bonsai_quant.core.errors import BadInput, Unsupported
from bonsai_quant.core.schema import DTYPE_BYTES
from bonsai_quant.storage import fs

from .magic import describe_magic
from .onnx import DTYPES, Attribute, Initializer, Node, padded
from .protobuf import Malformed, Value, fields, signed

MAX_MODEL = 64 << 20
"""Bytes of the model without its weights; that of the real model is below 1 MB."""
MAX_DIMENSION = 1 << 40
MAX_AXES = 8
BY_CODE = {code: name for name, code in DTYPES.items()}
GRAPH, NODE, INITIALIZER, METADATA = 7, 1, 5, 14
FORBIDDEN = {20: "training", 25: "functions of its own"}
"""Fields of a model that no pack has."""


class OnnxHeader:
    """What a model's file says. tensors, nodes: in its order.  metadata: by key.

    data: its bytes, whole.
    """

    def __init__(self, path: Path, data: bytes) -> None:
        self.path, self.data = path, data
        self.tensors: list[Initializer] = []
        self.nodes: list[Node] = []
        self.metadata: dict[str, str] = {}


def read_onnx(path: Path) -> OnnxHeader:
    """Parse and check a model's file; its weights are not looked at."""
    fd, info = fs.open_regular(path)
    try:
        if info.st_size > MAX_MODEL:
            raise Unsupported(
                f"is {info.st_size} bytes long; weights are read from a file beside the model",
                where=str(path), hint="export it with external data")  # fmt: skip
        data = bytes(fs.pread(fd, info.st_size, 0, path))
    finally:
        os.close(fd)
    return parse_onnx(data, path)


def parse_onnx(data: bytes, path: Path) -> OnnxHeader:
    """`read_onnx` from a file's bytes."""
    header = OnnxHeader(path, data)
    try:
        _read_model(header, memoryview(data))
    except (Malformed, UnicodeDecodeError) as e:
        kind = describe_magic(data[:512])
        why = f"but {kind}" if kind else f"({e})"
        _bad(path, f"is not an ONNX model {why}")
    return header


def check_places(tensors: Iterable[Initializer], weights: Path, model: Path) -> None:
    """The tensors of the second file, one after the other, and it ends with the last.

    weights: that file.  model: the file that describes it.
    """
    fd, info = fs.open_regular(weights)
    os.close(fd)
    end = 0
    for t in sorted((t for t in tensors if t.data is None), key=lambda t: t.offset):
        if t.location != weights.name:
            _bad(model, f"lies in {t.location[:80]!r}, expected {weights.name}", t.name)
        if t.offset != padded(end):
            _bad(model, f"starts at byte {t.offset}, expected {padded(end)}", t.name)
        end = t.offset + t.nbytes
    if end != info.st_size:
        raise BadInput(f"is {info.st_size} bytes long; its tensors end at byte {end}",
                       where=str(weights), hint="fetch the file again")  # fmt: skip


def _read_model(header: OnnxHeader, data: memoryview) -> None:
    graphs = 0
    for field, value in fields(data):
        if field == GRAPH:
            graphs += 1
            _read_graph(header, _message(value))
        elif field == METADATA:
            key, text = _pair(_message(value))
            header.metadata[key] = text
        elif field in FORBIDDEN:
            _bad(header.path, f"holds {FORBIDDEN[field]}, which no pack has")
    if graphs != 1:
        raise Malformed(f"it holds {graphs} graphs")


def _read_graph(header: OnnxHeader, data: memoryview) -> None:
    names: set[str] = set()
    for field, value in fields(data):
        if field == NODE:
            header.nodes.append(_node(_message(value)))
        elif field == INITIALIZER:
            tensor = _tensor(_message(value), header.path)
            if tensor.name in names:
                _bad(header.path, "stands twice", tensor.name)
            names.add(tensor.name)
            header.tensors.append(tensor)


def _node(data: memoryview) -> Node:
    """Attributes that are neither numbers nor lists of integers are left out."""
    inputs, outputs, texts = [], [], {4: "", 7: ""}
    attributes: dict[str, Attribute] = {}
    for field, value in fields(data):
        if field == 1:
            inputs.append(_text(value))
        elif field == 2:
            outputs.append(_text(value))
        elif field in texts:
            texts[field] = _text(value)
        elif field == 5:
            name, found = _attribute(_message(value))
            if found is not None:
                attributes[name] = found
    return Node(texts[4], tuple(inputs), tuple(outputs), attributes, texts[7])


def _attribute(data: memoryview) -> tuple[str, Attribute | None]:
    name, number, ints = "", None, []
    for field, value in fields(data):
        if field == 1:
            name = _text(value)
        elif field == 3:
            number = signed(_number(value))
        elif field == 8:
            ints.append(signed(_number(value)))
    return name, number if number is not None else tuple(ints) or None


def _tensor(data: memoryview, path: Path) -> Initializer:
    shape: list[int] = []
    code, name, inline = 0, "", None
    place: dict[str, str] = {}
    for field, value in fields(data):
        if field == 1:
            shape.append(_number(value))
        elif field == 2:
            code = _number(value)
        elif field == 8:
            name = _text(value)
        elif field == 9:
            inline = bytes(_message(value))
        elif field == 13:
            key, text = _pair(_message(value))
            place[key] = text
        elif field not in (3, 12, 14, 16):
            _bad(path, f"holds its values in field {field}, not as raw bytes", name)
    if code not in BY_CODE:
        raise Unsupported(f"is of ONNX's dtype {code}; {', '.join(DTYPES)} are read",
                          where=(path, f"tensor {name[:80]}"), hint="convert again")  # fmt: skip
    if len(shape) > MAX_AXES or not all(0 < n <= MAX_DIMENSION for n in shape):
        _bad(path, f"has the implausible shape {shape[:MAX_AXES]}", name)
    size = math.prod(shape) * DTYPE_BYTES[BY_CODE[code]]
    return _placed(Initializer(name, BY_CODE[code], tuple(shape), inline), place, size, path)


def _placed(tensor: Initializer, place: dict[str, str], size: int, path: Path) -> Initializer:
    """The tensor with where its bytes are. size: bytes that its shape takes."""
    if (tensor.data is None) == (not place):
        _bad(path, "has its values in the model and in another file, or in neither", tensor.name)
    if tensor.data is not None:
        if len(tensor.data) != size:
            _bad(path, f"has {len(tensor.data)} bytes, and its shape takes {size}", tensor.name)
        return tensor
    numbers = {}
    for key in ("offset", "length"):
        text = place.get(key, "")
        if not text.isdecimal() or not text.isascii() or len(text) > 15:
            _bad(path, f"has the {key} {text[:40]!r}", tensor.name)
        numbers[key] = int(text)
    if numbers["length"] != size:
        _bad(path, f"has {numbers['length']} bytes, and its shape takes {size}", tensor.name)
    where = place.get("location", "")
    return replace(tensor, location=where, offset=numbers["offset"], nbytes=size)


def _pair(data: memoryview) -> tuple[str, str]:
    found = {field: _text(value) for field, value in fields(data) if field in (1, 2)}
    return found.get(1, ""), found.get(2, "")


def _message(value: Value) -> memoryview:
    if isinstance(value, int):
        raise Malformed("a number stands where bytes belong")
    return memoryview(value)


def _text(value: Value) -> str:
    return bytes(_message(value)).decode()


def _number(value: Value) -> int:
    if not isinstance(value, int):
        raise Malformed("bytes stand where a number belongs")
    return value


def _bad(path: Path, what: str, name: str = "") -> NoReturn:
    where = (path, f"tensor {name[:80]}") if name else str(path)
    raise BadInput(what, where=where, hint="fetch the file again")
