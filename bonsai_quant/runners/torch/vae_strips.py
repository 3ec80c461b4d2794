"""A decoder that holds one large map at a time: norms, activations and convolutions in strips.

The same sums as diffusers' own modules make, a few rows of pixels at a time. Only the norms' means
and variances need the whole map, and they are two numbers for each group of channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

PIXELS = 1 << 13
"""Pixels of a strip: what is computed on the way stays small beside the map."""


def norm_of(x: torch.Tensor, norm: nn.GroupNorm) -> tuple[torch.Tensor, torch.Tensor]:
    """x [n, c, h, w] -> scale and shift [n, c, 1, 1] that are the group norm of it."""
    n, c = x.shape[:2]
    var, mean = torch.var_mean(x.reshape(n, norm.num_groups, -1), 2, correction=0)
    each = c // norm.num_groups
    scale = torch.rsqrt(var + norm.eps).repeat_interleave(each, 1) * norm.weight
    shift = norm.bias - mean.repeat_interleave(each, 1) * scale
    return scale[..., None, None], shift[..., None, None]


def convolved(
    x: torch.Tensor, conv: nn.Conv2d, norm: nn.GroupNorm | None = None, *, double: bool = False
) -> torch.Tensor:
    """conv(silu(norm(x))), or conv(x), or conv of x at twice its size; 3 x 3, a strip at a time."""
    n, _, high, wide = x.shape
    factor = 2 if double else 1
    rows, columns = high * factor, wide * factor
    out = x.new_empty(n, conv.out_channels, rows, columns)
    scale, shift = norm_of(x, norm) if norm is not None else (None, None)
    step = max(1, PIXELS // columns)
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        above, below = max(start - 1, 0), min(stop + 1, rows)
        part = x[:, :, above // factor : -(-below // factor)]
        if double:
            part = functional.interpolate(part, scale_factor=2.0, mode="nearest")
            skipped = above - above // factor * factor
            part = part[:, :, skipped : skipped + below - above]
        if scale is not None:
            part = functional.silu(part * scale + shift, inplace=True)
        part = functional.pad(part, (1, 1, int(start == 0), int(stop == rows)))
        out[:, :, start:stop] = functional.conv2d(part, conv.weight, conv.bias)
    return out


class StripResnet(nn.Module):  # type: ignore[misc]
    """diffusers' ResnetBlock2D as autoencoders use it: without time, at one size."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.norm1, self.conv1 = block.norm1, block.conv1
        self.norm2, self.conv2 = block.norm2, block.conv2
        self.conv_shortcut = block.conv_shortcut
        self.scale = block.output_scale_factor

    def forward(self, x: torch.Tensor, temb: None = None) -> torch.Tensor:
        """x [n, c, h, w] -> [n, c', h, w]."""
        h = convolved(convolved(x, self.conv1, self.norm1), self.conv2, self.norm2)
        if self.conv_shortcut is None:
            h += x
        else:
            step = max(1, PIXELS // x.shape[3])
            for at in range(0, x.shape[2], step):
                h[:, :, at : at + step] += self.conv_shortcut(x[:, :, at : at + step])
        return h if self.scale == 1 else h / self.scale


class StripUpsample(nn.Module):  # type: ignore[misc]
    """diffusers' Upsample2D: twice the size by nearest pixels, then a convolution."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.conv = block.conv

    def forward(self, x: torch.Tensor, *_: Any) -> torch.Tensor:
        """x [n, c, h, w] -> [n, c', 2 h, 2 w]."""
        return convolved(x, self.conv, double=True)


class StripEnd(nn.Module):  # type: ignore[misc]
    """The last norm, activation and convolution, in the place of the norm."""

    def __init__(self, norm: nn.GroupNorm, conv: nn.Conv2d) -> None:
        super().__init__()
        self.norm, self.conv = norm, conv

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [n, c, h, w] -> [n, 3, h, w]."""
        return convolved(x, self.conv, self.norm)


def in_strips(decoder: nn.Module) -> nn.Module:
    """diffusers' decoder, its modules replaced where they are of the kinds above."""
    from diffusers.models.resnet import ResnetBlock2D
    from diffusers.models.upsampling import Upsample2D

    for name, module in list(decoder.named_modules()):
        if isinstance(module, ResnetBlock2D) and _plain(module):
            decoder.set_submodule(name, StripResnet(module))
        elif isinstance(module, Upsample2D) and isinstance(module.conv, nn.Conv2d):
            decoder.set_submodule(name, StripUpsample(module))
    # One after another in one list: a block around them would hold its input until its end.
    parts = [part for block in decoder.up_blocks for part in _parts(block)]
    if all(isinstance(part, StripResnet | StripUpsample) for part in parts):
        decoder.up_blocks = nn.ModuleList(parts)
    if isinstance(decoder.conv_act, nn.SiLU):
        decoder.conv_norm_out = StripEnd(decoder.conv_norm_out, decoder.conv_out)
        decoder.conv_act = decoder.conv_out = nn.Identity()
    return decoder


def _parts(block: nn.Module) -> list[nn.Module]:
    return [*block.resnets, *(block.upsamplers or ())]


def _plain(block: nn.Module) -> bool:
    """Whether a block does nothing but what StripResnet does."""
    other = (block.upsample, block.downsample, block.time_emb_proj)
    norms = (block.norm1, block.norm2)
    known = block.time_embedding_norm != "scale_shift" and isinstance(block.nonlinearity, nn.SiLU)
    return known and all(p is None for p in other) and all(type(n) is nn.GroupNorm for n in norms)
