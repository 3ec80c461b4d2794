"""Codes and scales to weights, some rows at a time."""

from __future__ import annotations

import torch

GROUP = 128
"""Consecutive inputs of a row that share a scale."""


def bits_of(codes: torch.Tensor, scales: torch.Tensor) -> int:
    """Bits of a code, 1 or 2; 0 where the two do not fit together.

    codes: [out, in * bits / 8].  scales: [out, in / 128].
    """
    if codes.dim() != 2 or scales.dim() != 2 or len(codes) != len(scales):
        return 0
    inputs = scales.shape[1] * GROUP
    return next((b for b in (1, 2) if codes.shape[1] * 8 == inputs * b), 0)


def decode(codes: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The weights of some rows, exact in any dtype that holds the scales.

    codes: [rows, in * bits / 8] uint8, lowest bits first.  scales: [rows, in / 128].
    -> [rows, in]: s * (code - 1) with 2 bits, s * (2 * code - 1) with 1.
    """
    bits = bits_of(codes, scales)
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=codes.device)
    levels = (codes.unsqueeze(-1) >> shifts).bitwise_and_((1 << bits) - 1)
    weights = levels.reshape(*scales.shape, GROUP).to(dtype)
    if bits == 1:
        weights.mul_(2)
    weights.sub_(1).mul_(scales.to(dtype).unsqueeze(-1))
    return weights.reshape(len(codes), -1)
