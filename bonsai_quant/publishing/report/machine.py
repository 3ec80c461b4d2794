"""When and on what a report was made."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path

from bonsai_quant.core.requirements import installed

PROCESSORS = Path("/proc/cpuinfo")


def now() -> str:
    """The time in UTC, to the minute."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def describe_machine() -> str:
    """Processor, system and versions; not the machine's name, which is nobody's business."""
    parts = [
        f"{_processor()}, {os.cpu_count() or 1} cores",
        f"{platform.system()} {platform.machine()}",
        f"Python {platform.python_version()}",
    ]
    parts += [f"{name} {found}" for name in ("torch", "diffusers") if (found := installed(name))]
    return "; ".join(parts)


def _processor() -> str:
    try:
        lines = PROCESSORS.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
