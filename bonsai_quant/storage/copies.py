"""A file of the source, copied into a staging folder."""

from __future__ import annotations

import os
from pathlib import Path

from . import fs
from .staging import Staging

PIECE = 8 << 20


def copy_file(staging: Staging, relative: str, source: Path) -> None:
    """Copy in pieces, and force to disk; what an interrupted run left of it is replaced."""
    read, info = fs.open_regular(source)
    try:
        staging.discard(relative)
        write = staging.create(relative)
        try:
            for at in range(0, info.st_size, PIECE):
                data = fs.pread(read, min(PIECE, info.st_size - at), at, source)
                fs.pwrite_all(write, bytes(data), at, staging.path / relative)
            fs.fsync(write, staging.path / relative)
        finally:
            os.close(write)
    finally:
        os.close(read)
