"""Stock diffusers with the package sdnq, on a pack in the format `sdnq` with its other parts."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bonsai_quant.core.requirements import require
from bonsai_quant.core.schema import PictureSettings
from bonsai_quant.runners.sampling import Latents, Velocity

from . import stock_diffusers


def open_velocity(pack: Path) -> Velocity:
    """Velocities of a pack, on the CPU in float32. EnvironmentFault without sdnq."""
    _import()
    return stock_diffusers.open_velocity(pack)


def velocity(pack: Path, z: Latents, sigma: float, captions: np.ndarray) -> Latents:
    """z: [n, rows, columns, channels].  captions: [n, tokens, width] -> like z."""
    return open_velocity(pack)(z, sigma, captions)


def picture(pack: Path, prompt: str, seed: int, settings: PictureSettings) -> NDArray[np.uint8]:
    """[height, width, 3], of a seed's noise."""
    _import()
    return stock_diffusers.picture(pack, prompt, seed, settings)


def _import() -> None:
    """sdnq compiles at its first product, which takes 20 s, unless this is set before."""
    require(("sdnq",), "dev")
    os.environ.setdefault("SDNQ_USE_TORCH_COMPILE", "0")
    import sdnq  # noqa: F401
