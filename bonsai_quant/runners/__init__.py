"""Running a pipeline or a pack: one file or folder per runner, all with the same three parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bonsai_quant.core.errors import unknown

if TYPE_CHECKING:
    from bonsai_quant.packs.pipeline import Pipeline

    from .runner import Runner

RUNNERS = ("torch", "mlx")


def open_runner(place: Pipeline, backend: str = "auto") -> Runner:
    """The runner of this name; auto: mlx for a pack on Apple silicon, else torch."""
    if backend not in (*RUNNERS, "auto"):
        raise unknown("backend", backend, ("auto", *RUNNERS))
    if backend == "mlx" or (backend == "auto" and place.pack is not None and _on_apple()):
        from .mlx import MlxRunner

        return MlxRunner(place)
    from bonsai_quant.runners.torch.runner import TorchRunner

    return TorchRunner(place)


def _on_apple() -> bool:
    import platform

    from bonsai_quant.core.requirements import MLX, missing

    apple = (platform.system(), platform.machine()) == ("Darwin", "arm64")
    return apple and not missing(MLX)
