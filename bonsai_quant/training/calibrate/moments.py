"""Second moments of the inputs of linears, added up while the model runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

Hook = Callable[[nn.Module, tuple[torch.Tensor, ...]], None]


class Moments:
    """H = sum x x' / tokens for each of some linears: [in, in] float32."""

    def __init__(self, linears: Mapping[str, nn.Linear]) -> None:
        self.linears = linears
        self.sums: dict[str, torch.Tensor] = {}
        self.tokens: dict[str, int] = {}

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Add up the inputs of every linear that runs meanwhile."""
        hooks = [m.register_forward_pre_hook(self._adder(n)) for n, m in self.linears.items()]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _adder(self, name: str) -> Hook:
        def add(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            x = inputs[0].detach().flatten(0, -2).float()
            with torch.autocast(x.device.type, enabled=False):
                product = x.T @ x
            if name in self.sums:
                self.sums[name] += product
            else:
                self.sums[name] = product
            self.tokens[name] = self.tokens.get(name, 0) + len(x)

        return add

    def result(self, name: str) -> np.ndarray:
        """H of one linear's inputs, exactly symmetric."""
        h = self.sums[name] / self.tokens[name]
        mean: np.ndarray = ((h + h.T) / 2).cpu().numpy()
        return mean
