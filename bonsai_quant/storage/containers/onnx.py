"""ONNX models as bytes: records of nodes and tensors, written the same way every time.

The messages and their field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto. The
package `onnx` is not needed, and its versions do not change a byte. Weights lie in a second file
beside the model, each at an offset that the model names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .protobuf import bytes_field, float_field, number_field

ALIGN = 4096
"""Weights begin at multiples of it in their file, so that they can be mapped into memory."""
IR_VERSION = 8
"""Of the messages; the first that knows all operators of opset 18."""
DTYPES = {"F32": 1, "U8": 2, "I64": 7, "F16": 10, "BF16": 16}
"""ONNX's numbers of the dtypes that are written here."""
EXTERNAL = 1
"""`data_location` of a tensor that lies in another file."""
FLOAT_ATTRIBUTE, INT_ATTRIBUTE, INTS_ATTRIBUTE = 1, 2, 7

Attribute = int | float | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """An operator: domain "" is ONNX's own. inputs, outputs: names of values."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    domain: str = ""


@dataclass(frozen=True, slots=True)
class Initializer:
    """A tensor that the model brings along. dtype: a name of DTYPES.

    data: its bytes; None where they lie at `offset` of the file `location`, `nbytes` of them.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes | None = None
    location: str = ""
    offset: int = 0
    nbytes: int = 0


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output in float32. axes: a size, or the name of one that may change."""

    name: str
    axes: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Model:
    """A whole model. opsets: domain -> version.  metadata: text by key."""

    name: str
    nodes: tuple[Node, ...]
    initializers: tuple[Initializer, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    opsets: Mapping[str, int]
    producer: str
    metadata: Mapping[str, str]


def padded(size: int) -> int:
    """The next multiple of the alignment."""
    return size + -size % ALIGN


def encode(model: Model) -> bytes:
    """The model's file."""
    graph = b"".join(
        [
            *(bytes_field(1, _node(n)) for n in model.nodes),
            bytes_field(2, model.name),
            *(bytes_field(5, _tensor(t)) for t in model.initializers),
            *(bytes_field(11, _port(p)) for p in model.inputs),
            *(bytes_field(12, _port(p)) for p in model.outputs),
        ]
    )
    opsets = ((d, bytes_field(1, d), number_field(2, v)) for d, v in model.opsets.items())
    return b"".join(
        [
            number_field(1, IR_VERSION),
            bytes_field(2, model.producer),
            bytes_field(7, graph),
            *(bytes_field(8, (domain if d else b"") + version) for d, domain, version in opsets),
            *(bytes_field(14, _pair(k, v)) for k, v in model.metadata.items()),
        ]
    )


def _node(node: Node) -> bytes:
    return b"".join(
        [
            *(bytes_field(1, name) for name in node.inputs),
            *(bytes_field(2, name) for name in node.outputs),
            bytes_field(3, node.outputs[0]),
            bytes_field(4, node.op),
            *(bytes_field(5, _attribute(k, v)) for k, v in node.attributes.items()),
            bytes_field(7, node.domain) if node.domain else b"",
        ]
    )


def _attribute(name: str, value: Attribute) -> bytes:
    key = bytes_field(1, name)
    if isinstance(value, float):
        return key + float_field(2, value) + number_field(20, FLOAT_ATTRIBUTE)
    if isinstance(value, int):
        return key + number_field(3, value) + number_field(20, INT_ATTRIBUTE)
    ints = b"".join(number_field(8, n) for n in value)
    return key + ints + number_field(20, INTS_ATTRIBUTE)


def _tensor(tensor: Initializer) -> bytes:
    dims = b"".join(number_field(1, n) for n in tensor.shape)
    head = dims + number_field(2, DTYPES[tensor.dtype]) + bytes_field(8, tensor.name)
    if tensor.data is not None:
        return head + bytes_field(9, tensor.data)
    place = {"location": tensor.location, "offset": tensor.offset, "length": tensor.nbytes}
    entries = b"".join(bytes_field(13, _pair(k, str(v))) for k, v in place.items())
    return head + entries + number_field(14, EXTERNAL)


def _port(port: Port) -> bytes:
    dims = (
        bytes_field(2, axis) if isinstance(axis, str) else number_field(1, axis)
        for axis in port.axes
    )
    shape = b"".join(bytes_field(1, dim) for dim in dims)
    tensor = number_field(1, DTYPES["F32"]) + bytes_field(2, shape)
    return bytes_field(1, port.name) + bytes_field(2, bytes_field(1, tensor))


def _pair(key: str, value: str) -> bytes:
    return bytes_field(1, key) + bytes_field(2, value)


def tensor_bytes(tensors: Sequence[Initializer]) -> int:
    """Bytes of the tensors that lie in the second file."""
    return sum(t.nbytes for t in tensors if t.data is None)
