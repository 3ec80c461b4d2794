"""A file from elsewhere, copied into a staging folder."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from bonsai_quant.core.errors import VerificationFailed

from . import fs
from .staging import Staging

PIECE = 8 << 20


def copy_file(staging: Staging, relative: str, source: Path) -> tuple[int, str]:
    """Copy in pieces, force to disk and read back; -> size and sha256.

    What an interrupted run left of it is replaced.
    """
    read, info = fs.open_regular(source)
    digest = hashlib.sha256()
    try:
        staging.discard(relative)
        write = staging.create(relative)
        path = staging.path / relative
        try:
            for at in range(0, info.st_size, PIECE):
                data = bytes(fs.pread(read, min(PIECE, info.st_size - at), at, source))
                digest.update(data)
                fs.pwrite_all(write, data, at, path)
            settle(write, info.st_size, digest.hexdigest(), path)
        finally:
            os.close(write)
        return info.st_size, digest.hexdigest()
    finally:
        os.close(read)


def settle(fd: int, size: int, sha256: str, path: Path) -> None:
    """Force a written file to disk; refuse it when it reads back other bytes."""
    fs.fsync(fd, path)
    if fs.sha256_fd(fd, path) != (size, sha256):
        raise VerificationFailed(fs.READS_BACK, where=str(path), hint="use another disk")
