"""Linears whose codes stay as a pack has them, while their scales are trained."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from bonsai_quant.core.schema import PackTensor
from bonsai_quant.packs.read import Pack
from bonsai_quant.quantization.grid import LARGEST, LARGEST_BINARY
from bonsai_quant.runners.torch.packed_linear import KeptLinear, decode_on_device
from bonsai_quant.runners.torch.transformer import filled_transformer

from .grid_linear import GridLinear
from .latent_linear import to_grid


class CodedLinear(GridLinear):
    """y = x (s t)', s = exp(log_scales): scales stay positive, and a step changes them by a share.

    codes: [out, in * bits / 8] uint8, as in `PackedLinear`.  scales: [out, in / 128].
    The dense weight exists while the layer computes, and again while its gradient is computed.
    """

    learned = "log_scales"

    def __init__(self, codes: torch.Tensor, scales: torch.Tensor, bits: int, mode: str) -> None:
        super().__init__()
        self.bits, self.mode = bits, mode
        self.register_buffer("codes", codes, persistent=False)  # the pack has them
        self.log_scales = nn.Parameter(scales.float().log())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., in] -> [..., out]."""
        return functional.linear(x, _Decode.apply(self.log_scales, self.codes, self.bits))

    def stored(self, learned: torch.Tensor) -> torch.Tensor:
        """See `GridLinear.stored`: t s is exact in bfloat16, s being on the grid."""
        largest = LARGEST if self.mode == "ternary" else LARGEST_BINARY
        scales = to_grid(learned.exp(), largest)
        return decode_on_device(self.codes.to(scales.device), scales, self.bits).bfloat16()


class _Decode(torch.autograd.Function):  # type: ignore[misc]
    """W = exp(l) t, so that dL/dl of a group is the sum of its dL/dW times W.

    Only codes and scales are kept for the gradient: W is decoded again.
    """

    @staticmethod
    def forward(ctx: Any, log_scales: torch.Tensor, codes: torch.Tensor, bits: int) -> torch.Tensor:
        ctx.save_for_backward(log_scales, codes)
        ctx.bits = bits
        return decode_on_device(codes, log_scales.exp(), bits)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        log_scales, codes = ctx.saved_tensors
        weight = decode_on_device(codes, log_scales.exp(), ctx.bits)
        by_group = (gradient * weight).view(*log_scales.shape, -1)
        return by_group.sum(-1), None, None


def coded_transformer(pack: Pack) -> nn.Module:
    """diffusers' model on a pack's codes; scales and all kept tensors are float32 parameters."""
    modes = {t.linear: t.action for t in pack.info.packed}

    def coded(pack: Pack, tensor: PackTensor) -> CodedLinear:
        layer = pack.layer(tensor)
        codes, scales = (torch.from_numpy(np.array(a)) for a in (layer.codes, layer.scales))
        return CodedLinear(codes, scales, layer.bits, modes[tensor.linear])

    model = filled_transformer(pack, coded)
    for name, module in list(model.named_modules()):
        if isinstance(module, KeptLinear):
            dense = nn.Linear(module.in_features, module.out_features, bias=False, device="meta")
            dense.weight = nn.Parameter(module.weight.float())
            model.set_submodule(name, dense)
    return model
