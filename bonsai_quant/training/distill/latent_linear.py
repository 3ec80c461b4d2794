"""Linears that compute with codes and scales while their weights stay real, to be trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import nn
from torch.nn import functional

from bonsai_quant.core.schema import GROUP
from bonsai_quant.quantization.grid import LARGEST, LARGEST_BINARY, SMALLEST

from .grid_linear import GridLinear

ITERATIONS = 4
"""Steps of threshold -> scale -> threshold: enough that codes hardly ever differ from the best."""


def nearest(weight: torch.Tensor, mode: str) -> tuple[torch.Tensor, torch.Tensor]:
    """weight [out, in] -> t [out, in / 128, 128] in -1, 0, +1; s [out, in / 128, 1] on the grid.

    Binary: s = mean |w|, the optimum. Ternary: s = mean of the |w| > s / 2, a fixed point of the
    optimum's own condition (solvers/ternary.py), walked to from s = mean |w|.
    """
    w = weight.view(weight.shape[0], weight.shape[1] // GROUP, GROUP)
    size = w.abs()
    if mode == "binary":
        s = to_grid(size.mean(-1, keepdim=True), LARGEST_BINARY)
        return torch.where(w >= 0, 1.0, -1.0).to(w.dtype), s
    threshold = size.mean(-1, keepdim=True) / 2
    for _ in range(ITERATIONS):
        above = size > threshold
        total = (size * above).sum(-1, keepdim=True)
        threshold = total / (2 * above.sum(-1, keepdim=True).clamp(min=1))
    s = to_grid(2 * threshold, LARGEST)
    return torch.sign(w) * (size > s / 2), s


def to_grid(scales: torch.Tensor, largest: float) -> torch.Tensor:
    """The nearest numbers that fp16 and bf16 both hold."""
    return scales.clamp(SMALLEST, largest).bfloat16().to(scales.dtype)


def rounded(weight: torch.Tensor, mode: str) -> torch.Tensor:
    """weight [out, in] -> s t, of the same shape."""
    t, s = nearest(weight, mode)
    return (s * t).view_as(weight)


class LatentLinear(GridLinear):
    """y = x W'^T with W' = s t, the rounded latent weight W; its gradient goes straight to W.

    Straight-through estimator: https://arxiv.org/abs/1308.3432. The scales are computed anew from
    W at every step, so they need no learning rate and cannot drift from the codes.
    """

    learned = "weight"

    def __init__(self, weight: nn.Parameter, mode: str) -> None:
        super().__init__()
        self.weight, self.mode = weight, mode

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., in] -> [..., out]."""
        w = self.weight.float()  # itself, unless latents are in bfloat16
        with torch.no_grad():
            step = rounded(w, self.mode) - w
        return functional.linear(x, w + step)

    def stored(self, learned: torch.Tensor) -> torch.Tensor:
        """See `GridLinear.stored`."""
        return rounded(learned, self.mode).bfloat16()


def attach(model: nn.Module, modes: Mapping[str, str], dtype: torch.dtype = torch.float32) -> None:
    """Put latent linears in the place of linears. modes: by module name.  dtype: of the latents."""
    for name, mode in modes.items():
        weight = model.get_submodule(name).weight
        weight.data = weight.data.to(dtype)
        model.set_submodule(name, LatentLinear(weight, mode))


def latents(model: nn.Module) -> Iterator[tuple[str, LatentLinear]]:
    """Every latent linear with its name."""
    for name, module in model.named_modules():
        if isinstance(module, LatentLinear):
            yield name, module
