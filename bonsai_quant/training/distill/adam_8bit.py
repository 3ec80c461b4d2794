"""Adam with both moments in 8 bits, a scale for every 256 of them: bitsandbytes' own.

https://arxiv.org/abs/2110.02861. It runs on a CPU, too, and needs no compiler, where torchao's
compiles for every shape. Moments of fewer than 4,096 weights stay in float32.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from bonsai_quant.core.requirements import SMALL_MOMENTS, require

if TYPE_CHECKING:
    import torch

BLOCK, LEAST = 256, 4096
"""Moments that share a scale; a tensor of fewer weights has them in float32."""


def adam_8bit(groups: list[dict[str, Any]], **how: Any) -> torch.optim.Optimizer:
    """groups, how: as of torch.optim.AdamW."""
    require(SMALL_MOMENTS, "train")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it misses kernels for inference
    import bitsandbytes

    optimizer: torch.optim.Optimizer = bitsandbytes.optim.AdamW8bit(groups, **how)
    return optimizer


def moments(n_weights: int) -> int:
    """Bytes that both moments of a tensor take."""
    return 8 * n_weights if n_weights < LEAST else 2 * (n_weights + 4 * -(-n_weights // BLOCK))
