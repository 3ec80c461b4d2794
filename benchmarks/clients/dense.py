"""diffusers itself on a pack's dense weights, in float32: what every client is compared with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from bonsai_quant.packs.read import open_pack
from bonsai_quant.runners.sampling import Latents, Velocity
from bonsai_quant.runners.torch.dense import dense_transformer
from bonsai_quant.runners.torch.runner import velocity_of


def open_velocity(pack: Path) -> Velocity:
    """All pictures at once."""
    return velocity_by(dense_transformer(open_pack(pack)))


def velocity_by(model: torch.nn.Module) -> Velocity:
    """The velocity of any model with diffusers' interface."""

    def velocity(z: Latents, sigma: float, captions: np.ndarray) -> Latents:
        with torch.inference_mode():
            return velocity_of(model, z, sigma, captions)

    return velocity
