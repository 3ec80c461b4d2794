"""Blocks that hold less at a time: the gated half is computed some channels after others.

diffusers computes gate and value of all channels, then silu(gate) * value: at 512 x 512 pixels a
single block of Klein 4B holds 280 MB at once. Here a step computes as many channels of both as one
decoded piece of the weight has, straight into the joined input of the product that follows.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.embeddings import apply_rotary_emb
from torch import nn
from torch.nn import functional

from .packed_linear import RowsLinear


def in_chunks(model: nn.Module) -> nn.Module:
    """Let the blocks of a packed transformer compute in chunks."""
    for block in model.transformer_blocks:
        for name in ("ff", "ff_context"):
            forward = getattr(block, name)
            setattr(block, name, ChunkedFeedForward(forward.linear_in, forward.linear_out))
    for block in model.single_transformer_blocks:
        block.attn.processor = ChunkedSelfAttention()
    return model


class ChunkedFeedForward(nn.Module):  # type: ignore[misc]
    """x -> linear_out(silu(gate) * value), gate and value the halves of linear_in(x)."""

    def __init__(self, linear_in: RowsLinear, linear_out: RowsLinear) -> None:
        super().__init__()
        self.linear_in, self.linear_out = linear_in, linear_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [n, tokens, width] -> like it."""
        hidden = x.new_empty(*x.shape[:-1], self.linear_out.in_features)
        gated(self.linear_in, x, 0, hidden)
        return self.linear_out(hidden)


class ChunkedSelfAttention:
    """diffusers' processor of a single block: attention, and the feed-forward beside it."""

    def __call__(
        self, attn: Any, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None,
        image_rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """hidden_states [n, tokens, width] -> like it."""
        x, wide = hidden_states, attn.to_qkv_mlp_proj
        joined = x.new_empty(*x.shape[:-1], attn.to_out.in_features)
        width = attn.inner_dim
        q, k, v = (
            wide.part(x, i * width, (i + 1) * width).unflatten(-1, (-1, attn.head_dim))
            for i in range(3)
        )
        q, k = (
            apply_rotary_emb(norm(h), image_rotary_emb, sequence_dim=1)
            for norm, h in ((attn.norm_q, q), (attn.norm_k, k))
        )
        attended = dispatch_attention_fn(q, k, v, attn_mask=attention_mask)
        joined[..., :width] = attended.flatten(2, 3)
        del q, k, v, attended
        gated(wide, x, 3 * width, joined[..., width:])
        return attn.to_out(joined)


def gated(linear: RowsLinear, x: torch.Tensor, start: int, out: torch.Tensor) -> None:
    """silu(gate) * value into out [..., channels]; gate starts at `start`, value after it."""
    channels = out.shape[-1]
    step = linear.at_once
    for at in range(0, channels, step):
        stop = min(at + step, channels)
        gate = linear.part(x, start + at, start + stop)
        value = linear.part(x, start + channels + at, start + channels + stop)
        out[..., at:stop] = functional.silu(gate) * value
