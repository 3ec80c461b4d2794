"""diffusers' own transformer with a pack's codes in place of its weights, in torch.

Weights exist in float32 for a few rows of one layer at a time, so that memory stays near the
pack's size.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from bonsai_quant.core.schema import GROUP
from bonsai_quant.quantization.dequantize import decoded

from .adapter import LowRank

AT_ONCE = 1 << 22
"""Weights decoded at a time: 16 MiB of float32."""
ROWS = 64
"""Rows come in multiples of it: libraries sum in another order where a few are left over, and then
the product differs from the whole matrix's in its last bits."""


class RowsLinear(nn.Module):  # type: ignore[misc]
    """x [..., in] -> x W' [..., out], W by some rows at a time.

    adapter: what is added to the product, where LoRAs run beside the weight.
    """

    def __init__(self, out_features: int, in_features: int) -> None:
        super().__init__()
        self.out_features, self.in_features = out_features, in_features
        self.adapter: LowRank | None = None

    @property
    def at_once(self) -> int:
        """How many rows are decoded at a time."""
        return max(ROWS, AT_ONCE // self.in_features // ROWS * ROWS)

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Rows [start, stop) of the weight as float32 [rows, in]."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The product, in x's dtype."""
        return self.part(x, 0, self.out_features)

    def part(self, x: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """Channels [start, stop) of it."""
        y = x.new_empty(*x.shape[:-1], stop - start)
        step = self.at_once
        for at in range(start, stop, step):
            end = min(at + step, stop)
            y[..., at - start : end - start] = functional.linear(x, self.rows(at, end).to(x.dtype))
        return y if self.adapter is None else y.add_(self.adapter.part(x, start, stop))


class PackedLinear(RowsLinear):
    """codes: [out, in * bits / 8] uint8.  scales: [out, in / 128] float16."""

    def __init__(self, codes: torch.Tensor, scales: torch.Tensor, bits: int) -> None:
        super().__init__(len(codes), scales.shape[1] * GROUP)
        self.bits = bits
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """s * t."""
        codes, scales = self.codes[start:stop], self.scales[start:stop]
        if codes.device.type != "cpu":
            return decode_on_device(codes, scales.float(), self.bits)
        return torch.from_numpy(decoded(codes.numpy(), scales.numpy(), self.bits))


class KeptLinear(RowsLinear):
    """weight: [out, in] in 16 bits, as it is stored."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__(*weight.shape)
        self.register_buffer("weight", weight)

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """The stored numbers."""
        return self.weight[start:stop].float()


class KeptEmbedding(nn.Module):  # type: ignore[misc]
    """weight: [vocabulary, width] in 16 bits; looked up and then made float32."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """ids [...] -> [..., width]."""
        return functional.embedding(ids, self.weight).float()


def decode_on_device(codes: torch.Tensor, scales: torch.Tensor, bits: int) -> torch.Tensor:
    """s * t in torch, for a device: codes [rows, bytes], scales [rows, groups] -> [rows, in]."""
    shifts = torch.arange(0, 8, bits, device=codes.device, dtype=torch.uint8)
    digits = ((codes[..., None] >> shifts) & (2**bits - 1)).view(*scales.shape, GROUP).float()
    levels = digits - 1 if bits == 2 else 2 * digits - 1
    return (levels * scales[..., None]).flatten(1)
