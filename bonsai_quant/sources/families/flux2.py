"""FLUX.2: Klein 4B, Klein 9B, dev, and any other size with the same names.

One table lists each tensor under its diffusers name, its shape, the tensor of the original layout
that holds it, and which rows of that. Sizes are read from the shapes themselves. The fused qkv of
the original double blocks is split in three; the last norm's modulation is (shift, scale) there and
(scale, shift) in diffusers, so its halves change places.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from bonsai_quant.core.errors import BadInput, Unsupported, printable
from bonsai_quant.core.schema import Piece, StoredTensor, TensorSpec

from .flux2_order import STAGES, parts, reads, same_input
from .model import Family, Model, ModelTensor, Rows, Share, check_names, check_shape

log = logging.getLogger(__name__)

KNOWN = {
    (5, 20, 3072, 7680): "flux2-klein-4b",
    (8, 24, 4096, 12288): "flux2-klein-9b",
    (8, 48, 6144, 15360): "flux2-dev",
}
"""(double blocks, single blocks, hidden, text width) -> name; other sizes are just `flux2`."""

CLASS_NAME = "Flux2Transformer2DModel"
WHOLE, SWAP = "whole", "swap halves"


class Row(NamedTuple):
    """name: diffusers.  shape: in sizes, as text.  original: name there.  part: its rows."""

    name: str
    shape: str
    original: str
    part: str = WHOLE


GLOBAL = (
    Row("x_embedder", "h,i", "img_in"),
    Row("context_embedder", "h,j", "txt_in"),
    Row("time_guidance_embed.timestep_embedder.linear_1", "h,t", "time_in.in_layer"),
    Row("time_guidance_embed.timestep_embedder.linear_2", "h,h", "time_in.out_layer"),
    Row("double_stream_modulation_img.linear", "6h,h", "double_stream_modulation_img.lin"),
    Row("double_stream_modulation_txt.linear", "6h,h", "double_stream_modulation_txt.lin"),
    Row("single_stream_modulation.linear", "3h,h", "single_stream_modulation.lin"),
    Row("norm_out.linear", "2h,h", "final_layer.adaLN_modulation.1", SWAP),
    Row("proj_out", "o,h", "final_layer.linear"),
)
GUIDANCE = (
    Row("time_guidance_embed.guidance_embedder.linear_1", "h,t", "guidance_in.in_layer"),
    Row("time_guidance_embed.guidance_embedder.linear_2", "h,h", "guidance_in.out_layer"),
)
DOUBLE = (
    Row("attn.to_q", "h,h", "img_attn.qkv", "0/3"),
    Row("attn.to_k", "h,h", "img_attn.qkv", "1/3"),
    Row("attn.to_v", "h,h", "img_attn.qkv", "2/3"),
    Row("attn.add_q_proj", "h,h", "txt_attn.qkv", "0/3"),
    Row("attn.add_k_proj", "h,h", "txt_attn.qkv", "1/3"),
    Row("attn.add_v_proj", "h,h", "txt_attn.qkv", "2/3"),
    Row("attn.to_out.0", "h,h", "img_attn.proj"),
    Row("attn.to_add_out", "h,h", "txt_attn.proj"),
    Row("attn.norm_q", "d", "img_attn.norm.query_norm"),
    Row("attn.norm_k", "d", "img_attn.norm.key_norm"),
    Row("attn.norm_added_q", "d", "txt_attn.norm.query_norm"),
    Row("attn.norm_added_k", "d", "txt_attn.norm.key_norm"),
    Row("ff.linear_in", "2m,h", "img_mlp.0"),
    Row("ff.linear_out", "h,m", "img_mlp.2"),
    Row("ff_context.linear_in", "2m,h", "txt_mlp.0"),
    Row("ff_context.linear_out", "h,m", "txt_mlp.2"),
)
SINGLE = (
    Row("attn.to_qkv_mlp_proj", "3h+2m,h", "linear1"),
    Row("attn.to_out", "h,h+m", "linear2"),
    Row("attn.norm_q", "d", "norm.query_norm"),
    Row("attn.norm_k", "d", "norm.key_norm"),
)
BLOCKS = (
    ("transformer_blocks", "double_blocks", DOUBLE),
    ("single_transformer_blocks", "single_blocks", SINGLE),
)

EVIDENCE = {
    "attention_head_dim": "transformer_blocks.0.attn.norm_q",
    "guidance_embeds": "time_guidance_embed.guidance_embedder",
    "in_channels": "x_embedder",
    "joint_attention_dim": "context_embedder",
    "mlp_ratio": "transformer_blocks.0.ff.linear_out",
    "num_attention_heads": "x_embedder",
    "num_layers": "transformer_blocks",
    "num_single_layers": "single_transformer_blocks",
    "out_channels": "proj_out",
    "timestep_guidance_channels": "time_guidance_embed.timestep_embedder.linear_1",
}
"""Fields of diffusers' config.json, and the tensor that tells each."""

LAYOUT_MARKS = {
    "diffusers": ("transformer_blocks.", "x_embedder."),
    "original": ("double_blocks.", "img_in."),
}
PREFIX = "model.diffusion_model."
FLUX1_MARKS = ("double_blocks.0.img_mod.lin.weight", "transformer_blocks.0.norm1.linear.weight")


def detect(tensors: Mapping[str, StoredTensor], place: str) -> Model | None:
    """Recognise a FLUX.2 transformer in either layout; None when it is of another family."""
    tensors, prefixed = _without_prefix(tensors)
    layouts = [k for k, marks in LAYOUT_MARKS.items() if any(n.startswith(marks) for n in tensors)]
    if not layouts:
        return None
    if len(layouts) == 2:
        raise BadInput(
            "mixes diffusers names and original names", where=place, hint="give one layout only"
        )
    if mark := next((n for n in FLUX1_MARKS if n in tensors), ""):
        raise Unsupported(
            f"is a FLUX.1 checkpoint (it has {mark}); expected FLUX.2",
            where=place,
            hint="use a FLUX.2 checkpoint, such as FLUX.2-klein-4B",
        )
    layout = layouts[0]
    counts = _counts(tensors, layout)
    rows = list(_rows(counts, _guidance(tensors)))
    check_names({_stored_name(r, layout) for r in rows}, tensors, place)
    sizes = _sizes(tensors, layout, place)
    model = [_tensor(r, sizes, layout, tensors) for r in rows]
    base = KNOWN.get((*counts, sizes["h"], sizes["j"]), "flux2")
    reason = (
        f"{layout} names, {counts[0]} double and {counts[1]} single blocks, "
        f"hidden {sizes['h']}, text {sizes['j']}"
    )
    if prefixed:
        log.info("%s: took the prefix %s off %d names", printable(place), PREFIX, prefixed)
    return Model(
        base=base,
        layout=layout,
        config=_config(counts, sizes, _guidance(tensors)),
        tensors=tuple(sorted(model, key=lambda t: t.name)),
        reason=reason,
        evidence=EVIDENCE,
        doubts=_doubts(counts, sizes),
        linears=_linears(rows, sizes),
        family=FAMILY.name,
    )


def _doubts(counts: tuple[int, int], sizes: Mapping[str, int]) -> tuple[str, ...]:
    """A known width with another depth: a checkpoint that lost its last block looks like that."""
    for (*known_counts, h, j), name in KNOWN.items():
        if (h, j) == (sizes["h"], sizes["j"]) and tuple(known_counts) != counts:
            blocks = "{} double and {} single blocks"
            return (f"has {blocks.format(*counts)}; {name} has {blocks.format(*known_counts)}",)
    return ()


def dense_specs(
    counts: tuple[int, int], sizes: Mapping[str, int], *, guidance: bool = False
) -> tuple[list[TensorSpec], dict[str, Any]]:
    """The bf16 tensors, in diffusers' layout, and the config of a model of these sizes.

    counts: double and single blocks.  sizes: by letter, as in `_sizes`.
    """
    rows = _rows(counts, guidance)
    specs = [TensorSpec(r.name, "BF16", _shape(r.shape, sizes)) for r in rows]
    return specs, _config(counts, sizes, guidance)


def _without_prefix(
    tensors: Mapping[str, StoredTensor],
) -> tuple[Mapping[str, StoredTensor], int]:
    prefixed = [n for n in tensors if n.startswith(PREFIX)]
    if not prefixed:
        return tensors, 0
    short = {n.removeprefix(PREFIX): t for n, t in tensors.items()}
    if len(short) < len(tensors):
        first = next(n for n in prefixed if n.removeprefix(PREFIX) in tensors)
        raise BadInput(
            f"holds {first} both with and without its prefix",
            where=str(tensors[first].path),
            hint="give one layout only",
        )
    return short, len(prefixed)


def _counts(tensors: Mapping[str, StoredTensor], layout: str) -> tuple[int, int]:
    """Number of double and of single blocks: one more than the highest index."""

    def count(prefix: str) -> int:
        indices = {int(m[1]) for n in tensors if (m := re.match(rf"{prefix}\.(\d{{1,4}})\.", n))}
        return max(indices, default=-1) + 1

    double, single = (ours if layout == "diffusers" else theirs for ours, theirs, _ in BLOCKS)
    return count(double), count(single)


def _guidance(tensors: Mapping[str, StoredTensor]) -> bool:
    return any("guidance_embedder." in n or n.startswith("guidance_in.") for n in tensors)


def _rows(counts: tuple[int, int], guidance: bool) -> Iterator[Row]:
    """Every tensor of a model with so many blocks, under full names."""
    yield from (_full(r) for r in GLOBAL + (GUIDANCE if guidance else ()))
    for (ours, theirs, block), n in zip(BLOCKS, counts, strict=True):
        for i in range(n):
            yield from (_full(r, f"{ours}.{i}.", f"{theirs}.{i}.") for r in block)


def _full(row: Row, ours: str = "", theirs: str = "") -> Row:
    """A row of the table under full names. ours, theirs: what stands before them."""
    kind = "scale" if row.shape == "d" else "weight"
    return row._replace(name=f"{ours}{row.name}.weight", original=f"{theirs}{row.original}.{kind}")


def original_rows(name: str, n: int) -> tuple[Rows, ...]:
    """Where the original layout holds a tensor of n rows; () when it has no such tensor.

    name: diffusers name, with `.weight`.
    """
    rows = [_full(r) for r in GLOBAL + GUIDANCE]
    for ours, theirs, block in BLOCKS:
        if m := re.match(rf"{ours}\.(\d{{1,4}})\.", name):
            rows = [_full(r, f"{ours}.{m[1]}.", f"{theirs}.{m[1]}.") for r in block]
    for row in rows:
        if row.name == name:
            height, spans = _spans(row.part, n)
            return tuple(Rows(row.original, height, *span) for span in spans)
    return ()


def _spans(part: str, n: int) -> tuple[int, tuple[tuple[int, int, int], ...]]:
    """Rows of the original tensor, and (start, stop, at): its rows that are ours from `at` on.

    n: rows of ours.
    """
    if part == WHOLE:
        return n, ((0, n, 0),)
    if part == SWAP:
        half = n // 2
        return n, ((0, half, n - half), (half, n, 0))
    index, parts = map(int, part.split("/"))
    return parts * n, ((index * n, (index + 1) * n, 0),)


def _stored_name(row: Row, layout: str) -> str:
    return row.name if layout == "diffusers" else row.original


def _sizes(tensors: Mapping[str, StoredTensor], layout: str, place: str) -> dict[str, int]:
    """Sizes from the shapes: h hidden, i in, o out, j text, t time, d head, m MLP."""

    def axis(ours: str, theirs: str, rank: int, which: int) -> int:
        name = ours if layout == "diffusers" else theirs
        if name not in tensors:
            raise BadInput(
                f"lacks the tensor {name}", where=place, hint="fetch the checkpoint again"
            )
        shape = tensors[name].spec.shape
        if len(shape) != rank or 0 in shape:
            raise BadInput(
                f"has shape {list(shape)}, expected {rank} axes, none of them 0",
                where=(tensors[name].path, f"tensor {name}"),
                hint="fetch the checkpoint again",
            )
        return shape[which]

    time = ("time_guidance_embed.timestep_embedder.linear_1.weight", "time_in.in_layer.weight")
    norm = (
        "transformer_blocks.0.attn.norm_q.weight",
        "double_blocks.0.img_attn.norm.query_norm.scale",
    )
    down = ("transformer_blocks.0.ff.linear_out.weight", "double_blocks.0.img_mlp.2.weight")
    sizes = {
        "h": axis("x_embedder.weight", "img_in.weight", 2, 0),
        "i": axis("x_embedder.weight", "img_in.weight", 2, 1),
        "j": axis("context_embedder.weight", "txt_in.weight", 2, 1),
        "o": axis("proj_out.weight", "final_layer.linear.weight", 2, 0),
        "t": axis(*time, 2, 1),
        "d": axis(*norm, 1, 0),
        "m": axis(*down, 2, 1),
    }
    if sizes["h"] % sizes["d"]:
        raise BadInput(
            f"has heads of {sizes['d']}, which do not divide the hidden width {sizes['h']}",
            where=place,
            hint="fetch the checkpoint again",
        )
    return sizes


def _shape(text: str, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """'3h+2m,h' -> (3 * h + 2 * m, h)."""
    return tuple(
        sum(int(term[:-1] or 1) * sizes[term[-1]] for term in axis.split("+"))
        for axis in text.split(",")
    )


def _tensor(
    row: Row, sizes: Mapping[str, int], layout: str, tensors: Mapping[str, StoredTensor]
) -> ModelTensor:
    shape = _shape(row.shape, sizes)
    stored = tensors[_stored_name(row, layout)]
    height, spans = _spans(WHOLE if layout == "diffusers" else row.part, shape[0])
    check_shape(stored, (height, *shape[1:]))
    pieces = tuple(Piece(stored, *span) for span in spans)
    in_block = row.name.startswith(tuple(f"{b[0]}." for b in BLOCKS))
    packable = in_block and len(shape) == 2
    rule = (
        "linears inside blocks are packed"
        if packable
        else ("norms are kept" if in_block else "layers outside blocks are kept")
    )
    return ModelTensor(row.name, shape, packable, rule, pieces)


def _linears(rows: Iterable[Row], sizes: Mapping[str, int]) -> dict[str, tuple[Share, ...]]:
    """Every linear under its diffusers name and its original one."""
    linears: dict[str, tuple[Share, ...]] = {}
    for row in rows:
        n, *inputs = _shape(row.shape, sizes)
        if inputs:
            ours, theirs = (x.removesuffix(".weight") for x in (row.name, row.original))
            linears[ours] = (Share(row.name, 0, n, 0),)
            shares = tuple(Share(row.name, *r) for r in _spans(row.part, n)[1])
            linears[theirs] = linears.get(theirs, ()) + shares
    return linears


def _config(counts: tuple[int, int], sizes: Mapping[str, int], guidance: bool) -> dict[str, Any]:
    """diffusers' config.json, as far as the shapes tell; the rest are the family's values."""
    ratio = sizes["m"] / sizes["h"]
    return {
        "_class_name": CLASS_NAME,
        "attention_head_dim": sizes["d"],
        "axes_dims_rope": [32, 32, 32, 32],
        "eps": 1e-06,
        "guidance_embeds": guidance,
        "in_channels": sizes["i"],
        "joint_attention_dim": sizes["j"],
        "mlp_ratio": ratio,
        "num_attention_heads": sizes["h"] // max(sizes["d"], 1),
        "num_layers": counts[0],
        "num_single_layers": counts[1],
        "out_channels": None if sizes["o"] == sizes["i"] else sizes["o"],
        "patch_size": 1,
        "rope_theta": 2000,
        "timestep_guidance_channels": sizes["t"],
    }


FAMILY = Family(
    "flux2",
    detect,
    original_rows,
    same_input,
    tuple(ours for ours, _, _ in BLOCKS),
    STAGES,
    parts,
    reads,
)
