"""A linear in training whose products are those of codes and scales, however it keeps them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn


class GridLinear(nn.Module):  # type: ignore[misc]
    """learned: the name of the parameter that the layer's own rate is for."""

    learned: str
    mode: str

    def stored(self, learned: torch.Tensor) -> torch.Tensor:
        """s t as it is to be stored, [out, in] bfloat16. learned: the whole parameter, float32."""
        raise NotImplementedError


def grid_linears(model: nn.Module) -> Iterator[tuple[str, GridLinear]]:
    """Every one with its name."""
    for name, module in model.named_modules():
        if isinstance(module, GridLinear):
            yield name, module
