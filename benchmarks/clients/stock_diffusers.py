"""What both ways of running a pack in stock diffusers share: a velocity, and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bonsai_quant.core.schema import PictureSettings
from bonsai_quant.runners.sampling import Velocity
from bonsai_quant.runners.torch.dense import paint_dense, quiet
from bonsai_quant.runners.torch.runner import velocity_of

if TYPE_CHECKING:
    from diffusers import Flux2KleinPipeline


def open_velocity(pack: Path) -> Velocity:
    """Velocities of the transformer in a pack's folder, in float32 on the CPU."""
    import torch
    from diffusers import Flux2Transformer2DModel

    with quiet():
        model = Flux2Transformer2DModel.from_pretrained(
            pack, subfolder="transformer", torch_dtype=torch.float32, local_files_only=True
        )

    def velocity(z: NDArray[np.float32], sigma: float, captions: NDArray[np.float32]) -> np.ndarray:
        with torch.inference_mode():
            return velocity_of(model, z, sigma, captions)

    return velocity


def open_pipeline(pack: Path) -> Flux2KleinPipeline:
    """The pipeline in a pack's folder, in float32 on the CPU."""
    import torch
    from diffusers import Flux2KleinPipeline

    with quiet():
        pipe = Flux2KleinPipeline.from_pretrained(
            pack, torch_dtype=torch.float32, local_files_only=True
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def picture(pack: Path, prompt: str, seed: int, settings: PictureSettings) -> NDArray[np.uint8]:
    """[height, width, 3], of a seed's noise as diffusers draws it on a CPU."""
    made: NDArray[np.uint8] = paint_dense(open_pipeline(pack), [prompt], [seed], settings)[0]
    return made
