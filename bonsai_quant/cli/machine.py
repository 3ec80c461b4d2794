"""What this machine has: processor, memory, GPUs, and how large a folder on it is."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

from bonsai_quant.core.numbers import size
from bonsai_quant.core.requirements import installed

PATIENCE_S = 5.0
"""How long another program may take to answer."""


def processor() -> str:
    """Its name, cores, and whether it has AVX2, where that is a question."""
    cpuinfo = _read("/proc/cpuinfo")
    name = _after(cpuinfo, "model name") or _say("sysctl", "-n", "machdep.cpu.brand_string")
    parts = [name or platform.processor() or platform.machine(), f"{os.cpu_count() or 1} cores"]
    if flags := _after(cpuinfo, "flags"):
        parts.append("AVX2" if "avx2" in flags.split() else "no AVX2")
    return ", ".join(parts)


def memory() -> int | None:
    """Bytes in all; None where nothing here can tell."""
    if installed("psutil"):
        import psutil

        return int(psutil.virtual_memory().total)
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None


def gpus() -> list[str]:
    """The name and memory of each NVIDIA GPU, or Apple's GPU, without loading torch."""
    asked = ("--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
    found = []
    for line in _say("nvidia-smi", *asked).splitlines():
        name, _, mebibytes = line.rpartition(",")
        if name and mebibytes.strip().isdecimal():
            found.append(f"{name.strip()}, {size(int(mebibytes) << 20)} (CUDA)")
    if not found and (platform.system(), platform.machine()) == ("Darwin", "arm64"):
        found.append("Apple's, with the memory of the machine (MPS)")
    return found


def folder_bytes(folder: Path) -> int:
    """Bytes of the files in a folder, each once; what cannot be read is not counted."""
    total = 0
    for at, _, names in os.walk(folder):
        for name in names:
            try:
                info = os.lstat(os.path.join(at, name))
            except OSError:
                continue
            total += info.st_size
    return total


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _after(text: str, key: str) -> str:
    """The value of the first line `key : value`, "" when there is none."""
    pairs = (line.partition(":") for line in text.splitlines())
    return next((value.strip() for name, _, value in pairs if name.strip() == key), "")


def _say(*words: str) -> str:
    """What a program prints, "" when it is not there or fails."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
