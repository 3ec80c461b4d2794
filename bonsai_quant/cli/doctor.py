"""Which parts of the program work on this machine, and what to install for the others."""

from __future__ import annotations

import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from bonsai_quant.core.numbers import size
from bonsai_quant.core.requirements import (
    DIFFUSERS,
    GEMLITE,
    HQQ,
    LOOK,
    MLX,
    ONNX,
    ONNXRUNTIME_SINCE,
    PEFT,
    RUN,
    TRAIN,
    install,
    installed,
    is_since,
    missing,
    mlx_is_new,
)
from bonsai_quant.hub.client import token
from bonsai_quant.hub.listing import cache_folder
from bonsai_quant.runners import NVIDIA
from bonsai_quant.runners.gemlite import tuned

from . import machine

PACKS_OF_KLEIN = 4_200_000_000
"""Bytes of the transformer of Klein 4B in three formats, with room for one of them beside."""
MEMORY_OF_KLEIN = 2_000_000_000
"""Bytes of a machine that converts Klein 4B: 1 GB for it, and the system's own."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One part. works: True, False, or None where nothing is wrong and nothing is there.

    use: what it is for.  hint: the command that installs or mends it.
    """

    part: str
    works: bool | None
    detail: str
    hint: str = ""
    use: str = ""


def doctor() -> tuple[Finding, ...]:
    """Look at the packages and the machine; imports nothing heavy, opens no connection."""
    return (
        Finding("core", True, f"Python {platform.python_version()}", use="convert, verify, export"),
        _needs("run", (*RUN, *LOOK), "generate, score"),
        _needs("train", (*RUN, *TRAIN), "calibrate, distill, recover"),
        _mlx(),
        _gemlite(),
        _needs("hqq", HQQ, "text encoders of gemlite packs in 4 bits", extra="gemlite"),
        _needs("diffusers", (*DIFFUSERS, *PEFT), "packs and LoRAs in stock diffusers"),
        _onnx(),
        Finding("processor", True, machine.processor()),
        _memory(),
        _gpu(),
        _login(),
        _cache(),
        _disk(),
    )


def _needs(part: str, packages: tuple[str, ...], use: str, *, extra: str = "") -> Finding:
    if problem := missing(packages):
        return Finding(part, False, problem, install(extra or part), use)
    versions = ", ".join(f"{p} {installed(p)}" for p in dict.fromkeys(packages))
    return Finding(part, True, versions, use=use)


def _mlx() -> Finding:
    finding = _needs("mlx", (*MLX, *LOOK), "generate on Apple silicon, kernels of mlx packs")
    version = installed("mlx")
    if version and not mlx_is_new(version):
        why = f"mlx {version}: aborts on 1-bit packs"
        return Finding("mlx", False, why, install("mlx"), finding.use)
    return finding


def _gemlite() -> Finding:
    use = "generate on an NVIDIA GPU, kernels of gemlite packs"
    finding = _needs("gemlite", GEMLITE, use)
    if not finding.works:
        return finding
    how = "on the GPU" if NVIDIA.exists() else "no NVIDIA driver: kernels are checked, slowly"
    folder = tuned.folder()
    kept = size(machine.folder_bytes(folder)) if folder.is_dir() else "nothing yet"
    detail = f"{finding.detail}; {how}; tuned blocks: {kept} in {_short(folder)}"
    return Finding("gemlite", True, detail, use=use)


def _onnx() -> Finding:
    finding = _needs("onnx", ONNX, "kernels of onnx packs")
    version = installed("onnxruntime")
    if version and not is_since(version, ONNXRUNTIME_SINCE):
        why = f"onnxruntime {version}: no codes of 2 bits"
        return Finding("onnx", False, why, install("onnx"), finding.use)
    return finding


def _memory() -> Finding:
    total = machine.memory()
    if total is None:
        return Finding("memory", None, "not known without psutil", "pip install psutil")
    return Finding("memory", total > MEMORY_OF_KLEIN, f"{size(total)}; Klein 4B needs 1 GB")


def _gpu() -> Finding:
    found = machine.gpus()
    if not found:
        return Finding("gpu", None, "none found: pictures are painted on the processor")
    return Finding("gpu", True, "; ".join(found))


def _login() -> Finding:
    use = "publish, and models that ask for a login"
    if token():
        return Finding("login", True, "a token for the Hub is there", use=use)
    return Finding("login", None, "no token for the Hub", "hf auth login", use)


def _cache() -> Finding:
    folder = cache_folder()
    held = size(machine.folder_bytes(folder)) if folder.is_dir() else "nothing yet"
    return Finding("cache", True, f"{held} in {_short(folder)}", use="downloads from the Hub")


def _short(folder: Path) -> str:
    """A folder with ~ for the home it lies in."""
    try:
        return f"~/{folder.relative_to(Path.home())}"
    except ValueError:
        return str(folder)


def _disk() -> Finding:
    free = shutil.disk_usage(".").free
    detail = f"{size(free)} free here; packs of Klein 4B take {size(PACKS_OF_KLEIN)}"
    return Finding("disk", free > PACKS_OF_KLEIN, detail)
