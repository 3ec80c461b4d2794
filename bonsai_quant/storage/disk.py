"""What a disk can take: free bytes, whether two paths share one, whether it can be written."""

from __future__ import annotations

import os
from pathlib import Path

from bonsai_quant.core.errors import EnvironmentFault, UsageError

from . import fs, system

SLACK_BYTES = 1 << 20


def require_free_disk(n_bytes: int, out: Path) -> None:
    """Refuse before work when an output of this size cannot be created or will not fit."""
    check_writable(out)
    need, have = n_bytes + SLACK_BYTES, free_bytes(out)
    if need > have:
        raise EnvironmentFault(
            f"needs {need} bytes, {have} are free",
            where=str(out),
            hint="free some space, or choose another disk with -o",
        )


def free_bytes(folder: Path) -> int:
    """Bytes that a process without privileges may still write beside `folder`."""
    at = _nearest(folder)
    with fs.explained(at, "asking for free space"):
        return system.free_bytes(at)


def same_disk(a: Path, b: Path) -> bool:
    """Whether what is written to both takes room from the same file system."""
    return os.stat(_nearest(a)).st_dev == os.stat(_nearest(b)).st_dev


def check_writable(out: Path) -> None:
    """Refuse early when nothing can be created where the output will stand."""
    at = _nearest(out.parent)
    if not at.is_dir():
        raise UsageError(f"{at} is not a folder", hint="choose another output with -o")
    if not os.access(at, os.W_OK | os.X_OK):
        raise EnvironmentFault(
            "nothing can be created here",
            where=str(at),
            hint="check the permissions, or choose another output with -o",
        )


def _nearest(path: Path) -> Path:
    """The path, or the nearest folder above it that is there and can be seen."""
    at = Path(os.path.abspath(path))
    while not os.path.exists(at) and at != at.parent:
        at = at.parent
    return at
