"""The running mean of the weights, which rounds to better codes than the weights of one step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from bonsai_quant.training.distributed import local


class EMA:
    """A <- d A + (1 - d) W after every step; d begins small, so that the start is soon gone.

    With decay 0 it is the weights themselves, and takes no memory.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay, self.steps = model, decay, 0
        parameters = {n: p.detach() for n, p in model.named_parameters()}
        self.values = {n: p.clone() if decay else p for n, p in parameters.items()}

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def update(self) -> None:
        """Take in the weights of one more step."""
        self.steps += 1
        if not self.decay:
            return
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        means = [local(v) for v in self.values.values()]
        weights = [local(p.detach()) for p in self.model.parameters()]
        torch._foreach_lerp_(means, weights, 1 - decay)

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
