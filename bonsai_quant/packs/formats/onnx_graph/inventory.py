"""What an ONNX pack holds, told from its model, which must be the one that its tensors call for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

from bonsai_quant.core.errors import BadInput, Unsupported
from bonsai_quant.core.schema import (
    GROUP,
    MODES,
    Mode,
    PackInfo,
    PackTensor,
    StoredTensor,
    TensorSpec,
)
from bonsai_quant.packs.config import config_of
from bonsai_quant.packs.formats.inventory import Inventory, action_of
from bonsai_quant.packs.manifest import Manifest
from bonsai_quant.sources.families import detect
from bonsai_quant.storage.containers.onnx import Initializer, Node
from bonsai_quant.storage.containers.onnx_reader import (
    OnnxHeader,
    check_places,
    parse_onnx,
    read_onnx,
)

from .graph import BITS, ZERO_POINTS
from .model import MODE

CODES, SCALES, WEIGHT = ".codes", ".scales", ".weight"
PRODUCT = "MatMulNBits"


def inventory_of(
    model: Path, weights: Path, manifest: Manifest | None, drawn: Callable[[PackInfo], bytes]
) -> Inventory:
    """The inventory of a model and its weights. drawn: the model of a pack, to the byte."""
    header = read_onnx(model)
    check_places(header.tensors, weights, model)
    mode = _mode(header)
    outside = [t for t in header.tensors if t.data is None]
    _check_products(header)
    tensors = tuple(sorted(_tensors(outside, mode, manifest, model), key=lambda t: t.name))
    if not any(t.packed for t in tensors):
        raise BadInput("holds no packed layer", where=str(model), hint="convert again")
    stored = {
        t.name: StoredTensor(TensorSpec(t.name, t.dtype, t.shape), weights, t.offset)
        for t in outside
    }
    _check_graph(header, mode, tensors, drawn)
    return Inventory(mode, stored, tensors)


def _mode(header: OnnxHeader) -> Mode:
    said = header.metadata.get(MODE)
    for mode in MODES:
        if said == mode:
            return mode
    what = "does not say its mode, so it is of another program" if said is None else \
        f"says that its mode is {said[:40]!r}"  # fmt: skip
    raise Unsupported(what, where=str(header.path), hint="only packs of this program are read")


def _tensors(
    outside: Iterable[Initializer], mode: Mode, manifest: Manifest | None, model: Path
) -> Iterable[PackTensor]:
    """The transformer's tensors, by the names and shapes of what is stored."""
    for t in outside:
        if t.name.endswith(CODES):
            if len(t.shape) != 3:
                _bad(model, t.name, f"has {len(t.shape)} axes, expected 3")
            linear = t.name.removesuffix(CODES)
            shape = (t.shape[0], t.shape[1] * GROUP)
            yield PackTensor(f"{linear}{WEIGHT}", shape, action_of(linear, mode, manifest))
        elif t.name.endswith(WEIGHT):
            yield PackTensor(t.name, t.shape, "keep")


def _check_products(header: OnnxHeader) -> None:
    """Each product with codes is of 2 bits in groups of 128, and its zero is the code 1."""
    inline = {t.name: t.data for t in header.tensors if t.data is not None}
    for node in header.nodes:
        if node.op == PRODUCT:
            _check_product(node, inline, header.path)


def _check_product(node: Node, inline: dict[str, bytes], model: Path) -> None:
    name = node.outputs[0] if node.outputs else PRODUCT
    for key, expected in (("bits", BITS), ("block_size", GROUP)):
        if node.attributes.get(key) != expected:
            raise Unsupported(f"has {key} {node.attributes.get(key)}, expected {expected}",
                              where=(model, f"node {name[:80]}"), hint="convert again")  # fmt: skip
    zeros = inline.get(node.inputs[3]) if len(node.inputs) > 3 else None
    if zeros is None or zeros.strip(bytes([ZERO_POINTS])):
        raise Unsupported("has zero points other than 1", where=(model, f"node {name[:80]}"),
                          hint="convert again")  # fmt: skip


def _check_graph(
    header: OnnxHeader,
    mode: Mode,
    tensors: tuple[PackTensor, ...],
    drawn: Callable[[PackInfo], bytes],
) -> None:
    """Whether the model is the one that this program draws for these tensors."""
    folder = header.path.parent
    as_checkpoint = {
        t.name: StoredTensor(TensorSpec(t.name, "BF16", t.shape), header.path, 0) for t in tensors
    }
    model = detect(as_checkpoint, str(header.path))
    info = PackInfo(model.base, mode, config_of(folder, model), tensors)
    if (expected := drawn(info)) != header.data:
        raise BadInput(
            "is not the graph that belongs to its weights and config.json: "
            f"{_differs(header, expected)}",
            where=str(header.path),
            hint="export it again from a pack in another format",
        )


def _differs(header: OnnxHeader, expected: bytes) -> str:
    """The first thing in which a model differs from the expected one, in words."""
    other = parse_onnx(expected, header.path)
    counts = [(len(h.nodes), len(h.tensors)) for h in (header, other)]
    if counts[0] != counts[1]:
        words = ["{} nodes and {} tensors".format(*c) for c in counts]
        return f"it has {words[0]}, expected {words[1]}"
    for node, wanted in zip(header.nodes, other.nodes, strict=True):
        if node != wanted:
            return f"node {wanted.outputs[0]} differs"
    for tensor, expected_one in zip(header.tensors, other.tensors, strict=True):
        if tensor != expected_one:
            return f"tensor {expected_one.name} differs"
    return "inputs, outputs, versions or numbers with a point differ"


def _bad(path: Path, name: str, what: str) -> NoReturn:
    raise BadInput(what, where=(path, f"tensor {name[:80]}"), hint="convert again")
