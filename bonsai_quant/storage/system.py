"""What operating systems differ in: flags of open, reads and writes at an offset, locks, space.

Windows has no flock, no pread, and no descriptors of folders. Everything that only reads works
there; writing packs needs descriptors of folders, and says so.
"""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

from bonsai_quant.core.errors import EnvironmentFault


def _flag(name: str) -> int:
    return int(getattr(os, name, 0))


BINARY = _flag("O_BINARY") | _flag("O_CLOEXEC")
"""For every open: bytes as they are, and not for child processes."""
NO_LINK, NO_WAIT, FOLDER = _flag("O_NOFOLLOW"), _flag("O_NONBLOCK"), _flag("O_DIRECTORY")

_position = threading.Lock()
"""Where reads move the position of a file, one thread at a time does so."""


def has_folder_descriptors() -> bool:
    """Whether folders can be held open, and files be opened relative to them."""
    return bool(FOLDER) and os.open in os.supports_dir_fd


def require_folder_descriptors(path: object) -> None:
    """Refuse to write where a folder that is replaced meanwhile could lead writes elsewhere."""
    if not has_folder_descriptors():
        raise EnvironmentFault(
            "writing needs folders that are held open, which this system does not have",
            where=str(path),
            hint="use Linux, macOS, or WSL on Windows; plan, inspect, verify and diff work here",
        )


def read_at(fd: int, buffer: memoryview, offset: int) -> int:
    """Fill as much of a buffer as one read gives, from `offset`; -> bytes."""
    if hasattr(os, "preadv"):
        return os.preadv(fd, [buffer], offset)
    with _position:
        os.lseek(fd, offset, os.SEEK_SET)
        data = os.read(fd, len(buffer))
    buffer[: len(data)] = data
    return len(data)


def write_at(fd: int, data: memoryview, offset: int) -> int:
    """Write as much as one write takes, at `offset`; -> bytes."""
    if hasattr(os, "pwrite"):
        return os.pwrite(fd, data, offset)
    with _position:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.write(fd, data)


def free_bytes(folder: Path) -> int:
    """Bytes that a process without privileges may still write."""
    if hasattr(os, "statvfs"):
        info = os.statvfs(folder)
        return info.f_bavail * info.f_frsize
    return shutil.disk_usage(folder).free


def lock(folder_fd: int) -> None:
    """Lock a folder until its descriptor is closed; raises BlockingIOError."""
    import fcntl  # where folders have descriptors, there is flock

    fcntl.flock(folder_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
