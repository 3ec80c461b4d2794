"""A file from elsewhere, copied into a staging folder."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from ..errors import VerificationFailed
from . import fs
from .staging import Staging

PIECE = 8 << 20


def copy_file(staging: Staging, relative: str, source: Path) -> tuple[int, str]:
    """Copy in pieces, force to disk, and read back; -> size and sha256.

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
                data = fs.pread(read, min(PIECE, info.st_size - at), at, source)
                digest.update(data)
                fs.pwrite_all(write, bytes(data), at, path)
            fs.fsync(write, path)
            written = fs.sha256_fd(write, path)
        finally:
            os.close(write)
    finally:
        os.close(read)
    if written != (info.st_size, digest.hexdigest()):
        raise VerificationFailed(fs.READS_BACK, where=str(path), hint="use another disk")
    return written
