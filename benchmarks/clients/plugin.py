"""Stock diffusers with our plug-in, on the transformer of a pack in the format `diffusers`."""

from __future__ import annotations

from pathlib import Path

from bonsai_quant.runners.sampling import Velocity

from . import stock_diffusers


def open_velocity(pack: Path) -> Velocity:
    """Velocities of a pack, on the CPU in float32."""
    import bonsai_quant.diffusers  # noqa: F401

    return stock_diffusers.open_velocity(pack)
