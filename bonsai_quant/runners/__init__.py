"""Runners: a pack or a pipeline -> pictures. A new one is a file here and a row in RUNNERS."""

from __future__ import annotations

import platform
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from bonsai_quant.core.errors import UsageError, unknown
from bonsai_quant.core.requirements import GEMLITE, MLX, RUN, missing

from .backend import Backend

if TYPE_CHECKING:
    from bonsai_quant.packs.pipeline import Pipeline

    from .runner import Runner

NVIDIA = Path("/proc/driver/nvidia/version")
"""There where an NVIDIA driver is loaded."""


def _anywhere(pipeline: Pipeline) -> bool:
    return True


def _packs_on_cuda(pipeline: Pipeline) -> bool:
    """An NVIDIA driver first: without one nothing needs to be imported to know."""
    if pipeline.pack is None or not NVIDIA.exists():
        return False
    from .gemlite.card import has_card
    from .gemlite.runner import is_faster

    return has_card() and is_faster(pipeline)


def _packs_on_apple(pipeline: Pipeline) -> bool:
    apple = (platform.system(), platform.machine()) == ("Darwin", "arm64")
    return apple and pipeline.pack is not None


_ROWS = (
    Backend("torch", "torch.runner", "TorchRunner", RUN, _anywhere, adapts=True),
    Backend(
        "gemlite",
        "gemlite.runner",
        "GemliteRunner",
        tuple(dict.fromkeys((*RUN, *GEMLITE))),
        _packs_on_cuda,
        adapts=True,
    ),
    Backend("mlx", "mlx.runner", "MlxRunner", MLX, _packs_on_apple),
)
RUNNERS = {row.name: row for row in _ROWS}
"""Later rows suit fewer machines: `auto` takes the last that suits, if its packages are there."""
REFERENCE = "torch"
"""The runner of whole pipelines, which packs are compared with."""


def open_runner(pipeline: Pipeline, backend: str = "auto") -> Runner:
    """The runner of this name.

    auto: for a pack mlx on Apple silicon, and gemlite on an NVIDIA GPU where it is faster; else
    torch.
    """
    if backend not in (*RUNNERS, "auto"):
        raise unknown("backend", backend, ("auto", *RUNNERS))
    row = _choose(pipeline) if backend == "auto" else RUNNERS[backend]
    if pipeline.loras and not row.adapts:
        raise UsageError(
            f"the {row.name} runner takes no LoRA", hint=f"leave --backend out, or give {REFERENCE}"
        )
    runner: Runner = getattr(import_module(f"{__name__}.{row.module}"), row.cls)(pipeline)
    return runner


def _choose(pipeline: Pipeline) -> Backend:
    able = [r for r in reversed(_ROWS) if r.adapts or not pipeline.loras]
    suited = (r for r in able if not missing(r.packages) and r.suits(pipeline))
    return next(suited, RUNNERS[REFERENCE])
