"""Gemlite's own kernels for every product of a pack, on an NVIDIA GPU, in bfloat16."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from bonsai_quant.core.errors import EnvironmentFault
from bonsai_quant.packs.pipeline import Pipeline
from bonsai_quant.packs.read import open_pack
from bonsai_quant.runners import open_runner
from bonsai_quant.runners.gemlite.rule import VARIABLE
from bonsai_quant.runners.sampling import Latents, Velocity

EVERY_ROW = "999999999"
_open = ExitStack()
"""Runners stay open until the process ends."""


def open_velocity(pack: Path) -> Velocity:
    """All pictures at once. EnvironmentFault, "not run: ...", where there is no card."""
    os.environ[VARIABLE] = EVERY_ROW
    try:
        runner = open_runner(Pipeline(pack.name, pack, open_pack(pack)), "gemlite")
    except EnvironmentFault as e:
        raise EnvironmentFault(f"not run: no card ({e.what})", hint=e.hint) from e
    return _open.enter_context(runner.transformer())


def velocity(pack: Path, z: Latents, sigma: float, captions: np.ndarray) -> Latents:
    """z: [n, rows, columns, channels].  captions: [n, tokens, width] -> like z."""
    return open_velocity(pack)(z, sigma, captions)
