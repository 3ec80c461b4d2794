"""The MLX runner of this program: MLX's own kernels for 1 and 2 bits."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from bonsai_quant.packs.pipeline import Pipeline
from bonsai_quant.packs.read import open_pack
from bonsai_quant.runners import open_runner
from bonsai_quant.runners.sampling import Velocity

_open = ExitStack()


def open_velocity(pack: Path) -> Velocity:
    """The runner stays open until the process ends."""
    runner = open_runner(Pipeline(pack.name, pack, open_pack(pack)), "mlx")
    return _open.enter_context(runner.transformer())
