"""Stock diffusers with the package sdnq, on the transformer of a pack in the format `sdnq`."""

from __future__ import annotations

import os
from pathlib import Path

from bonsai_quant.core.requirements import require
from bonsai_quant.runners.sampling import Velocity

from . import stock_diffusers


def open_velocity(pack: Path) -> Velocity:
    """Velocities of a pack, on the CPU in float32. EnvironmentFault without sdnq.

    sdnq compiles at its first product, which takes 20 s, unless the variable is set before.
    """
    require(("sdnq",), "dev")
    os.environ.setdefault("SDNQ_USE_TORCH_COMPILE", "0")
    import sdnq  # noqa: F401

    return stock_diffusers.open_velocity(pack)
