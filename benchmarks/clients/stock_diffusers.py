"""What both ways of running a pack in stock diffusers share."""

from __future__ import annotations

from pathlib import Path

from bonsai_quant.runners.sampling import Velocity
from bonsai_quant.runners.torch.dense import quiet

from .dense import velocity_by


def open_velocity(pack: Path) -> Velocity:
    """Velocities of the transformer in a pack's folder, in float32 on the CPU."""
    import torch
    from diffusers import Flux2Transformer2DModel

    with quiet():
        model = Flux2Transformer2DModel.from_pretrained(
            pack, subfolder="transformer", torch_dtype=torch.float32, local_files_only=True
        )
    return velocity_by(model)
