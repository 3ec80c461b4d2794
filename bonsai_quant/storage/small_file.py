"""One small file that is no part of a pack: written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from bonsai_quant.core.errors import OutputExists

from . import fs
from .folder import open_folder

PART = re.compile(r"\..+\.\d+\.part")
"""Names of files that are being written; no other program makes such."""


def make_folder(path: Path) -> None:
    """The folder and those above it, where they are missing."""
    with fs.explained(path, "making the folder"):
        fs.change("mkdir", os.makedirs, path, exist_ok=True)


def write_file(path: Path, data: bytes, *, overwrite: bool) -> None:
    """Write beside the target and rename. overwrite: replace what is there, else refuse."""
    part = f".{path.name[:200]}.{os.getpid()}.part"
    with fs.explained(path.parent, "opening the folder"):
        folder = open_folder(path.parent)
    try:
        try:
            _write(folder, part, data, path)
            _rename(part, folder, path, overwrite)
        except BaseException:
            with contextlib.suppress(OSError):
                fs.change("unlink", os.unlink, part, dir_fd=folder)
            raise
        fs.fsync(folder, path.parent)
    finally:
        os.close(folder)


def clear_parts(folder_fd: int, path: Path) -> None:
    """Remove what killed runs left half written in a folder that nobody else writes to now."""
    with fs.explained(path, "removing"):
        for name in os.listdir(folder_fd):
            if PART.fullmatch(name):
                fs.change("unlink", os.unlink, name, dir_fd=folder_fd)


def _write(folder: int, part: str, data: bytes, path: Path) -> None:
    fd = fs.create(folder, part, path)
    try:
        fs.pwrite_all(fd, data, 0, path)
        fs.fsync(fd, path)
    finally:
        os.close(fd)


def _rename(part: str, folder: int, path: Path, overwrite: bool) -> None:
    if overwrite:
        with fs.explained(path, "renaming into place"):
            fs.change("rename", os.replace, part, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        return
    try:
        fs.rename(part, path.name, folder, fs.RENAME_NOREPLACE, path)
    except OutputExists as e:
        e.hint = "name another file"
        raise
