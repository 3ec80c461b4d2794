"""Which parts of the program work on this machine, and what to install for the others."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from bonsai_quant.core.requirements import (
    HQQ,
    LOOK,
    MLX,
    RUN,
    install,
    installed,
    missing,
    mlx_is_new,
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One part. works: True, False, or None when it cannot be told.  hint: what to install."""

    part: str
    works: bool | None
    detail: str
    hint: str = ""


def doctor() -> tuple[Finding, ...]:
    """Look at the packages and the machine; imports nothing heavy, opens no connection."""
    return (
        Finding(
            "convert, export, verify (file, codes)", True, f"Python {platform.python_version()}"
        ),
        _mlx(),
        _gemlite(),
        _needs("convert: the text encoder of gemlite packs in 4 bits", HQQ, "gemlite"),
        _needs("runner torch: generate, score, verify (step, image)", (*RUN, *LOOK), "run"),
        _memory(),
        _disk(),
    )


def _needs(part: str, packages: tuple[str, ...], extra: str) -> Finding:
    if problem := missing(packages):
        return Finding(part, False, problem, install(extra))
    return Finding(part, True, ", ".join(f"{p} {installed(p)}" for p in packages))


def _mlx() -> Finding:
    finding = _needs("runner mlx, verify --level kernel on mlx packs", (*MLX, *LOOK), "mlx")
    version = installed("mlx")
    if version and not mlx_is_new(version):
        return Finding(finding.part, False, f"mlx {version}: aborts on 1-bit packs", install("mlx"))
    return finding


def _gemlite() -> Finding:
    finding = _needs(
        "verify --level kernel on gemlite packs", ("torch", "triton", "gemlite"), "gemlite"
    )
    if not finding.works:
        return finding
    gpu = Path("/proc/driver/nvidia/version").exists()
    how = "on the GPU" if gpu else "no NVIDIA driver: under Triton's interpreter, slowly"
    return Finding(finding.part, True, f"{finding.detail}; {how}")


def _memory() -> Finding:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return Finding("memory", None, "not known here")
    return Finding("memory", total > 2 << 30, f"{total / 1e9:.1f} GB; Klein 4B needs 1 GB")


def _disk() -> Finding:
    free = shutil.disk_usage(".").free
    return Finding(
        "disk",
        free > 5_000_000_000,
        f"{free / 1e9:.1f} GB free here; the three packs of Klein 4B take 4.2 GB",
    )
