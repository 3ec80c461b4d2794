"""Optional packages: which are installed, and what to type for those that are not."""

from __future__ import annotations

import shlex
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .errors import EnvironmentFault
from .version import ON_INDEX, REPOSITORY, TOOL

RUN = ("torch", "diffusers", "transformers")
"""What the torch runner needs."""
DIFFUSERS = (*RUN, "accelerate")
"""What the plug-in for diffusers needs."""
PEFT = ("peft",)
"""What loads LoRAs there."""
TRAIN = ("matplotlib", "pillow")
"""What training needs beside it: curves to look at."""
SMALL_MOMENTS = ("bitsandbytes",)
"""What training in little memory needs besides: Adam's moments in 8 bits."""
LOOK = ("pillow",)
"""What drawing and shrinking pictures needs."""

CHARTS = ("matplotlib",)
"""What drawing the charts of a report needs."""
LIKENESS = ("torch", "torchmetrics")
"""What measuring how alike pictures are to the eye needs."""

HQQ = ("hqq", "torch", "transformers", "accelerate")
"""What makes and runs the text encoder of a gemlite deployment."""

GEMLITE = ("torch", "triton", "gemlite")
"""What runs gemlite's kernels."""

MLX = ("mlx", "mlx-lm", "transformers")
"""What the mlx runner needs."""
MLX_SINCE = (0, 32, 4)
"""Earlier versions of mlx do not raise on 1-bit codes: they end the process."""

ONNX = ("onnxruntime",)
"""What runs the kernels of onnx packs."""
ONNXRUNTIME_SINCE = (1, 24)
"""Earlier versions of onnxruntime multiply with codes of 4 and 8 bits alone."""


def installed(name: str) -> str | None:
    """The version of an installed package, without importing it; None if it is not there."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def missing(names: tuple[str, ...]) -> str:
    """'A, B not installed', or "" when all are."""
    absent = [n for n in names if installed(n) is None]
    return f"{', '.join(absent)} not installed" if absent else ""


def install(extra: str) -> str:
    """The command that installs, on this machine, what an extra of this package holds."""
    source = Path(__file__).resolve().parents[2]
    if ON_INDEX or not (source / "pyproject.toml").is_file():
        return install_anywhere(extra)
    place = "." if source == Path.cwd() else source
    return f"pip install -e {shlex.quote(f'{place}[{extra}]')}"


def install_anywhere(extra: str) -> str:
    """The command that installs this package with an extra where nothing of it is yet."""
    wanted = f"{TOOL}[{extra}]" if ON_INDEX else f"{TOOL}[{extra}] @ git+{REPOSITORY}"
    return f"pip install {shlex.quote(wanted)}"


def require(names: tuple[str, ...], extra: str) -> None:
    """Refuse to go on without packages."""
    if problem := missing(names):
        raise EnvironmentFault(problem, hint=install(extra))


def is_since(version: str, first: tuple[int, ...]) -> bool:
    """Whether a version is this one or a later one."""
    return tuple(int(n) for n in version.split(".")[:3] if n.isdecimal()) >= first


def mlx_is_new(version: str) -> bool:
    """Whether this version of mlx runs 1-bit codes."""
    return is_since(version, MLX_SINCE)


def check_mlx() -> None:
    """Refuse to go on without MLX, or with one that would end the process."""
    require(MLX, "mlx")
    present = installed("mlx") or ""
    if not mlx_is_new(present):
        raise EnvironmentFault(f"mlx {present} aborts on 1-bit codes", hint=install("mlx"))
