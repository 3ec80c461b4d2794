"""A graph that grows operator by operator, and the linears of a pack as operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from bonsai_quant.core.schema import GROUP, PackInfo
from bonsai_quant.storage.containers.onnx import DTYPES, Attribute, Initializer, Node

BITS = 2
"""Of a code: onnxruntime's MatMulNBits takes 2, 4 and 8, so that binary codes take 2 as well."""
ZERO = 1
"""The code of weight 0."""
ZERO_POINTS = 0x55
"""Four zero points of 1 in a byte."""
MOST = 7
"""Parts of a whole: WebGPU promises an operator 8 buffers."""
MICROSOFT = "com.microsoft"
FLOAT = DTYPES["F32"]
DTYPE = {"float32": "F32", "int64": "I64", "uint8": "U8"}

T = TypeVar("T")


class Graph:
    """Nodes and constants. A value goes by the name of the node that makes it."""

    def __init__(self, info: PackInfo) -> None:
        self.tensors = {t.linear: t for t in info.tensors}
        self.nodes: list[Node] = []
        self.constants: dict[str, Initializer] = {}
        self._made: set[str] = set()

    def op(self, op: str, *inputs: str, to: str, domain: str = "", **attributes: Attribute) -> str:
        """Add an operator with one output; -> its name, which is `to`."""
        self._add(Node(op, inputs, (to,), attributes, domain))
        return to

    def split(self, x: str, *, to: str, axis: int, sizes: Sequence[int]) -> list[str]:
        """Parts of x of these sizes along an axis, at most MOST at once; -> their names."""
        if len(sizes) > MOST:
            groups = _groups(sizes)
            wide = self.split(x, to=f"{to}.group", axis=axis, sizes=[sum(g) for g in groups])
            parts = (
                self.split(part, to=part, axis=axis, sizes=group)
                for part, group in zip(wide, groups, strict=True)
            )
            return [name for names in parts for name in names]
        outputs = tuple(f"{to}.{k}" for k in range(len(sizes)))
        self._add(Node("Split", (x, self.ints(*sizes)), outputs, {"axis": axis}))
        return list(outputs)

    def join(self, parts: Sequence[str], *, to: str, axis: int) -> str:
        """Inverse of `split`; -> the name of the whole, which is `to`."""
        if len(parts) > MOST:
            parts = [
                self.join(group, to=f"{to}.group.{k}", axis=axis)
                for k, group in enumerate(_groups(parts))
            ]
        return self.op("Concat", *parts, to=to, axis=axis)

    def _to_float(self, x: str, to: str) -> str:
        """16 bits in float32, which a runtime does once, when it loads the model."""
        self._add(Node("Cast", (x,), (to,), {"to": FLOAT}))
        return to

    def _add(self, node: Node) -> None:
        if not self._made.isdisjoint(node.outputs):
            raise AssertionError(f"{node.outputs[0]} is made twice")
        self._made.update(node.outputs)
        self.nodes.append(node)

    def constant(self, name: str, values: np.ndarray) -> str:
        """A small tensor that lies in the model itself."""
        little = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"))
        dtype = DTYPE[values.dtype.name]
        self.constants[name] = Initializer(name, dtype, values.shape, little.tobytes())
        return name

    def ints(self, *values: int) -> str:
        """A constant list of integers."""
        return self.constant("ints." + ".".join(map(str, values)), np.array(values, np.int64))

    def number(self, value: float) -> str:
        """A constant float32."""
        return self.constant(f"number.{value:.9g}", np.array(value, np.float32))

    def kept(self, name: str) -> str:
        """A kept tensor in float32, [out, in] turned into [in, out]. name: of its module."""
        exact = self._to_float(f"{name}.weight", f"{name}.weight.float")
        if len(self.tensors[name].shape) == 1:
            return exact
        return self.op("Transpose", exact, to=f"{name}.weight.turned", perm=(1, 0))

    def linear(self, name: str, x: str) -> str:
        """x: [.., in] -> [.., out], by a packed or a kept linear."""
        tensor, to = self.tensors[name], f"{name}.out"
        if not tensor.packed:
            return self.op("MatMul", x, self.kept(name), to=to)
        out, width = tensor.shape
        scales = self._to_float(f"{name}.scales", f"{name}.scales.float")
        return self.op(
            "MatMulNBits", x, f"{name}.codes", scales, self.zero_points(out, width), to=to,
            domain=MICROSOFT, K=width, N=out, bits=BITS, block_size=GROUP,
        )  # fmt: skip

    def zero_points(self, out: int, width: int) -> str:
        """[out, bytes of a row] uint8, which all layers of this shape share."""
        row = -(-width // GROUP * BITS // 8)
        values = np.full((out, row), ZERO_POINTS, np.uint8)
        return self.constant(f"zero_points.{out}.{row}", values)

    def silu(self, x: str, to: str) -> str:
        """x * sigmoid(x)."""
        return self.op("Mul", x, self.op("Sigmoid", x, to=f"{to}.sigmoid"), to=to)


def _groups(parts: Sequence[T]) -> list[Sequence[T]]:
    """At most MOST runs of the parts, nearly alike in length."""
    step = -(-len(parts) // MOST)
    return [parts[k : k + step] for k in range(0, len(parts), step)]
