"""What LoRAs add to a layer's product: a side path of low rank, so that its weight stays packed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from bonsai_quant.core.errors import BadInput
from bonsai_quant.core.schema import Delta
from bonsai_quant.sources.lora import Adapter


class LowRank(nn.Module):  # type: ignore[misc]
    """x [..., in] -> B (A x) [..., out]. down: A [r, in].  up: B [out, r], scales included."""

    def __init__(self, up: torch.Tensor, down: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("up", up)
        self.register_buffer("down", down)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """All channels."""
        return self.part(x, 0, len(self.up))

    def part(self, x: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """Channels [start, stop)."""
        return functional.linear(functional.linear(x, self.down), self.up[start:stop])


def adapt(model: nn.Module, loras: Sequence[Adapter]) -> None:
    """Give the layers of a packed transformer what the LoRAs have for them, in float32.

    All LoRAs of a layer are one side path, their factors side by side.
    """
    from bonsai_quant.sources.lora.merge import read_factors

    deltas: dict[str, list[Delta]] = {}
    for lora in loras:
        lora.check_unchanged()
        for tensor, delta in lora.deltas.items() if lora.scale else ():
            deltas.setdefault(tensor, []).append(delta)
    for tensor, found in deltas.items():
        layer = model.get_submodule(tensor.removesuffix(".weight"))
        factors = read_factors(found, (layer.out_features, layer.in_features))
        if not np.isfinite(factors.up).all():
            raise BadInput(
                "scale times alpha / rank times lora_B is more than float32 holds",
                where=(str(found[0].lora), f"layer {tensor}"),
                hint="give a smaller scale",
            )
        layer.adapter = LowRank(torch.from_numpy(factors.up), torch.from_numpy(factors.down))
