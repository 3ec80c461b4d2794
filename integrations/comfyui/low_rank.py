"""A LoRA beside a packed layer: what it adds to the output, without a dense weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class SidePath:
    """factor * up @ down, added to rows [start, start + len(up)) of a layer's weight.

    down: [rank, in].  up: [rows, rank].
    """

    start: int
    up: torch.Tensor
    down: torch.Tensor
    factor: float

    def add_to(self, output: torch.Tensor, inputs: torch.Tensor) -> None:
        """Add to the layer's output [..., out] what the LoRA makes of its inputs [..., in]."""
        down, up = (w.to(inputs.device, inputs.dtype) for w in (self.down, self.up))
        added = torch.nn.functional.linear(torch.nn.functional.linear(inputs, down), up)
        output.narrow(-1, self.start, len(up)).add_(added, alpha=self.factor)


def side_paths(patches: Sequence[Any], out: int) -> list[SidePath] | None:
    """ComfyUI's patches of one weight as side paths; None where one of them is anything else.

    patches: (strength, what, strength of the model, offset, function).  out: rows of the weight.
    """
    paths = [_side_path(*patch, out) for patch in patches]
    return None if None in paths else paths  # type: ignore[return-value]


def _side_path(
    strength: float, what: Any, strength_model: float, offset: Any, function: Any, out: int
) -> SidePath | None:
    if getattr(what, "name", "") != "lora" or strength_model != 1.0 or function is not None:
        return None
    up, down, alpha, middle, magnitudes, reshape = what.weights
    if middle is not None or magnitudes is not None or reshape is not None:
        return None
    axis, start, rows = offset or (0, 0, out)
    if axis != 0 or up.dim() != 2 or down.dim() != 2 or len(up) != rows:
        return None
    factor = strength * (1.0 if alpha is None else float(alpha) / len(down))
    return SidePath(start, up, down, factor)
