"""The running mean of the weights, which rounds to better codes than the weights of one step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from bonsai_quant.training.distributed import local


class EMA:
    """A <- d A + (1 - d) W after every step; d begins small, so that the start is soon gone.

    With decay 0 it is the weights themselves, and takes no memory. Otherwise it is in float32, on
    `place` (where the weights are, when None). Weights in bfloat16 get it rounded to that when it
    is swapped in, and it goes on from there.
    """

    def __init__(self, model: nn.Module, decay: float, place: torch.device | None = None) -> None:
        self.model, self.decay, self.steps = model, decay, 0
        parameters = {n: p.detach() for n, p in model.named_parameters()}
        self.values = {n: _own(p, place) if decay else p for n, p in parameters.items()}

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def update(self) -> None:
        """Take in the weights of one more step."""
        self.steps += 1
        if not self.decay:
            return
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, p in self.model.named_parameters():
            mean = local(self.values[name])
            mean.lerp_(local(p.detach()).to(mean), 1 - decay)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Put the mean in the place of the model's weights for a while."""
        if not self.decay:
            yield
            return
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def _exchange(self) -> None:
        for name, p in self.model.named_parameters():
            here, there = local(p.detach()), local(self.values[name])
            kept = here.clone()
            here.copy_(there)
            there.copy_(kept)


def _own(weight: torch.Tensor, place: torch.device | None) -> torch.Tensor:
    return weight.to(place or weight.device, torch.float32, copy=True)
