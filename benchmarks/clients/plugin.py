"""Stock diffusers with our plug-in, on a pack in the format `diffusers` with its other parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bonsai_quant.core.schema import PictureSettings
from bonsai_quant.runners.sampling import Latents, Velocity

from . import stock_diffusers


def open_velocity(pack: Path) -> Velocity:
    """Velocities of a pack, on the CPU in float32."""
    import bonsai_quant.diffusers  # noqa: F401

    return stock_diffusers.open_velocity(pack)


def velocity(pack: Path, z: Latents, sigma: float, captions: np.ndarray) -> Latents:
    """z: [n, rows, columns, channels].  captions: [n, tokens, width] -> like z."""
    return open_velocity(pack)(z, sigma, captions)


def picture(pack: Path, prompt: str, seed: int, settings: PictureSettings) -> NDArray[np.uint8]:
    """[height, width, 3], of a seed's noise."""
    import bonsai_quant.diffusers  # noqa: F401

    return stock_diffusers.picture(pack, prompt, seed, settings)
