"""The model's file: the graph of a pack's transformer, with the places of its weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bonsai_quant.core.errors import Unsupported
from bonsai_quant.core.schema import GROUP, PackInfo, PackTensor, TensorSpec
from bonsai_quant.core.version import TOOL
from bonsai_quant.storage.containers.onnx import Initializer, Model, Port, encode

from .flux2 import Sizes, Transformer, sizes_of
from .graph import MICROSOFT, Graph

CLASS_NAME = "Flux2Transformer2DModel"
OPSETS = {"": 18, MICROSOFT: 1}
MODE = "bonsai_quant.mode"
"""Key of the model's metadata: binary codes are stored like ternary ones."""
OUTPUT = "velocity"


def check(info: PackInfo) -> None:
    """Raise Unsupported for a pack whose transformer is none that can be drawn here."""
    problem = _problem(info)
    if problem:
        raise Unsupported(problem, where="format onnx", hint="use another format")


def _problem(info: PackInfo) -> str:
    config = info.config
    if config.get("_class_name") != CLASS_NAME:
        return f"has graphs of {CLASS_NAME} alone"
    if config.get("guidance_embeds"):
        return "has no graph of a transformer that takes a guidance scale"
    sizes = sizes_of(info)
    axes = sizes.axes
    if any(n != int(n) or n % 2 for n in axes) or sum(axes) != sizes.head:
        return f"needs axes_dims_rope of even numbers that add up to {sizes.head}, not {list(axes)}"
    if sizes.time % 2:
        return f"needs an even number of channels for the time, not {sizes.time}"
    return ""


def render(
    info: PackInfo, specs: Iterable[TensorSpec], offsets: Mapping[str, int], location: str
) -> bytes:
    """The model's file. specs, offsets: the stored tensors in the file `location`, sorted."""
    check(info)
    graph, sizes = Graph(info), sizes_of(info)
    velocity = Transformer(graph, sizes).build()
    graph.op("Identity", velocity, to=OUTPUT)
    stored = (
        Initializer(s.name, s.dtype, s.shape, None, location, offsets[s.name], s.nbytes)
        for s in specs
    )
    constants = (graph.constants[name] for name in sorted(graph.constants))
    return encode(
        Model(
            name=CLASS_NAME,
            nodes=tuple(graph.nodes),
            initializers=(*stored, *constants),
            inputs=_inputs(sizes),
            outputs=(Port(OUTPUT, ("batch", "image", sizes.rooms[2])),),
            opsets=OPSETS,
            producer=TOOL,
            metadata={MODE: info.mode},
        )
    )


def layer_model(name: str, codes: bytes, scales: bytes, shape: tuple[int, ...]) -> bytes:
    """A model of one packed linear alone: x [rows, in] -> y [rows, out]. shape: of its codes."""
    out, groups, _ = shape
    tensor = PackTensor(f"{name}.weight", (out, groups * GROUP), "ternary")
    graph = Graph(PackInfo("", "ternary", {}, (tensor,)))
    result = graph.linear(name, "x")
    stored = (
        Initializer(f"{name}.codes", "U8", shape, codes),
        Initializer(f"{name}.scales", "F16", shape[:2], scales),
    )
    return encode(
        Model(
            name=name,
            nodes=tuple(graph.nodes),
            initializers=(*stored, *graph.constants.values()),
            inputs=(Port("x", ("rows", groups * GROUP)),),
            outputs=(Port(result, ("rows", out)),),
            opsets=OPSETS,
            producer=TOOL,
            metadata={},
        )
    )


def _inputs(sizes: Sizes) -> tuple[Port, ...]:
    """Named as diffusers names them."""
    channels, text, _ = sizes.rooms
    return (
        Port("hidden_states", ("batch", "image", channels)),
        Port("encoder_hidden_states", ("batch", "text", text)),
        Port("timestep", ("batch",)),
        Port("img_ids", ("image", len(sizes.axes))),
        Port("txt_ids", ("text", len(sizes.axes))),
    )
