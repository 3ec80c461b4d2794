"""The linears of FLUX.2's blocks: the order in which they run, and what their rows are for."""

from __future__ import annotations

from .model import Reads

SAME_INPUT = {
    "attn.to_k": "attn.to_q",
    "attn.to_v": "attn.to_q",
    "attn.add_k_proj": "attn.add_q_proj",
    "attn.add_v_proj": "attn.add_q_proj",
}
"""Linears of a block that read what another one of it reads."""


def same_input(linear: str) -> str:
    """The first of the linears that read what this one reads. linear: diffusers name."""
    for name, first in SAME_INPUT.items():
        if linear.endswith(f".{name}"):
            return f"{linear.removesuffix(name)}{first}"
    return linear


STAGES = {
    "transformer_blocks": (
        ("attn.to_q", "attn.to_k", "attn.to_v", "attn.add_q_proj", "attn.add_k_proj",
         "attn.add_v_proj"),
        ("attn.to_out.0", "attn.to_add_out"),
        ("ff.linear_in", "ff_context.linear_in"),
        ("ff.linear_out", "ff_context.linear_out"),
    ),
    "single_transformer_blocks": (("attn.to_qkv_mlp_proj",), ("attn.to_out",)),
}  # fmt: skip
"""Linears of the two kinds of blocks, in the order in which they run."""


TEXT = (".attn.add_", ".attn.to_add_out", ".ff_context.")


def reads(linear: str) -> Reads:
    """Which tokens a linear reads. linear: diffusers name."""
    if linear.startswith("single_transformer_blocks."):
        return "both"
    return "text" if any(t in linear for t in TEXT) else "picture"


def parts(linear: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Where q, k, v and the MLP begin in the fused projection of a single block: [3h + 2m, h]."""
    h = shape[1]
    return (0, h, 2 * h, 3 * h) if linear.endswith(".to_qkv_mlp_proj") else (0,)
