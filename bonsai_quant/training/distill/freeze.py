"""Codes that jump to and fro near the end of training, held at where they are on average.

A latent weight at a threshold is pushed across it again and again, so that the last step decides
by chance which code is stored (https://arxiv.org/abs/2203.11086).
"""

from __future__ import annotations

import torch
from torch import nn

from bonsai_quant.training.distributed import local

from .ema import EMA
from .latent_linear import latents, nearest

OFTEN = 0.05
"""A code that changes in more than this share of steps is held."""
MEMORY = 0.95
"""Weight of the past in that share."""


class Freeze:
    """Watches codes once it has begun. Call `hold` after every update of the weights."""

    def __init__(self, model: nn.Module, ema: EMA) -> None:
        self.layers = dict(latents(model))
        self.ema = ema
        self.codes = {
            n: torch.zeros_like(m.weight, dtype=torch.int8) for n, m in self.layers.items()
        }
        self.often = {
            n: torch.zeros_like(m.weight, dtype=torch.float16) for n, m in self.layers.items()
        }
        self.held = {
            n: torch.zeros_like(m.weight, dtype=torch.bool) for n, m in self.layers.items()
        }
        for name in self.layers:
            local(self.codes[name]).copy_(self._codes(name))

    def _codes(self, name: str) -> torch.Tensor:
        layer = self.layers[name]
        weight = local(layer.weight.detach()).float()
        return nearest(weight, layer.mode)[0].view_as(weight).to(torch.int8)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def hold(self) -> None:
        """Count the changes, and put what is held back to its average."""
        for name, layer in self.layers.items():
            codes, often, held = (local(v[name]) for v in (self.codes, self.often, self.held))
            now = self._codes(name)
            often.mul_(MEMORY).add_((now != codes) * (1 - MEMORY))
            held |= often > OFTEN
            codes.copy_(now)
            weight = local(layer.weight.detach())
            mean = local(self.ema.values[f"{name}.weight"]).to(weight)
            weight.copy_(torch.where(held, mean, weight))

    def share(self) -> float:
        """How many of the codes here are held."""
        held = [local(h) for h in self.held.values()]
        share: float = sum(int(h.sum()) for h in held) / max(1, sum(h.numel() for h in held))
        return share
