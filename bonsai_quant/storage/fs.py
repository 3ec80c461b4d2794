"""Every system call that changes a file goes through here, so that each can be made to fail.

Reads are bounded `pread`s, never mmap: a file that shrinks under a mapping kills the process
with SIGBUS, without a message.
"""

from __future__ import annotations

import contextlib
import ctypes.util
import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bonsai_quant.core.errors import BadInput, EnvironmentFault, OutputExists

from . import system

RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
CHUNK = 8 << 20
"""Bytes of one bounded read."""
NO_SUCH_RENAME = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)
"""What file systems answer that can only rename plainly."""
READS_BACK = "reads back other bytes than were written; is the disk failing?"
IN_THE_WAY = "something else stands in its place: remove it, and run the command again"
HINTS = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space, or ask for a larger quota",
    errno.EACCES: "check the permissions",
    errno.EPERM: "check the permissions",
    errno.EROFS: "the file system is read-only: choose another output with -o",
    errno.EFBIG: "raise the file size limit (ulimit -f)",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EIO: "check the disk; the system's log says more",
    errno.EISDIR: IN_THE_WAY,
    errno.ENOTDIR: IN_THE_WAY,
    errno.ELOOP: IN_THE_WAY,
}


class NotOnDisk(EnvironmentFault):
    """fsync failed: what was written may be lost although it still reads back, so none is kept."""


def change(operation: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Change a file: the seam. Tests replace it to count, fail or kill at the n-th change."""
    return call(*args, **kwargs)


@contextlib.contextmanager
def explained(path: object, doing: str) -> Iterator[None]:
    """Turn an OSError into one line that names the file and what can be done."""
    try:
        yield
    except OSError as e:
        reason = os.strerror(e.errno) if e.errno else str(e)
        hint = HINTS.get(e.errno or 0, "mend that, and run the command again")
        raise EnvironmentFault(f"{doing} failed: {reason}", where=str(path), hint=hint) from e


def open_regular(path: Path) -> tuple[int, os.stat_result]:
    """Open for reading what must be a regular file; never blocks on a FIFO or a device."""
    try:
        fd = os.open(path, os.O_RDONLY | system.NO_WAIT | system.BINARY)
    except FileNotFoundError as e:
        raise BadInput("no such file", where=str(path), hint="check the path") from e
    except OSError as e:
        if e.errno in (errno.ELOOP, errno.ENXIO, errno.ENAMETOOLONG, errno.ENOTDIR):
            raise BadInput(
                f"cannot be opened: {os.strerror(e.errno)}",
                where=str(path),
                hint="point to a file on disk",
            ) from e
        with explained(path, "opening"):
            raise
    except ValueError as e:
        raise BadInput("not a legal path", where=str(path), hint="check the path") from e
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):
        os.close(fd)
        raise BadInput("not a regular file", where=str(path), hint="point to a file on disk")
    return fd, info


def identity(info: os.stat_result) -> tuple[int, int, int, int]:
    """What changes when a file is replaced or rewritten: device, inode, size, mtime."""
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns


def changed(path: object) -> BadInput:
    """The error for a file of the source whose `identity` is not what it was."""
    hint = "let nothing write to the source, and run again"
    return BadInput("changed during the run", where=str(path), hint=hint)


def pread_into(fd: int, buffer: memoryview, offset: int, path: object) -> None:
    """Fill `buffer` from `offset`, or say that the file ended early."""
    done = 0
    while done < len(buffer):
        with explained(path, f"reading at byte {offset + done}"):
            n = system.read_at(fd, buffer[done:], offset + done)
        if n == 0:
            raise BadInput(
                f"ends at byte {offset + done}, {len(buffer) - done} bytes too early; "
                "it changed during the run or is truncated",
                where=str(path),
                hint="fetch it again and rerun",
            )
        done += n


def pread(fd: int, size: int, offset: int, path: object) -> bytearray:
    """`size` bytes from `offset`."""
    buffer = bytearray(size)
    pread_into(fd, memoryview(buffer), offset, path)
    return buffer


def read_small(path: Path, limit: int = 16 << 20) -> bytes:
    """A whole small file (a config, an index); larger than `limit` is refused before reading."""
    fd, info = open_regular(path)
    try:
        if info.st_size > limit:
            raise BadInput(
                f"is {info.st_size} bytes, more than the {limit} allowed",
                where=str(path),
                hint="fetch it again",
            )
        return bytes(pread(fd, info.st_size, 0, path))
    finally:
        os.close(fd)


def sha256_file(path: Path) -> tuple[int, str]:
    """Size in bytes and hex sha256 of a file, in bounded memory."""
    fd, _ = open_regular(path)
    try:
        return sha256_fd(fd, path)
    finally:
        os.close(fd)


def sha256_fd(fd: int, path: object) -> tuple[int, str]:
    """The same of an open file; its position does not move."""
    digest, size = hashlib.sha256(), os.fstat(fd).st_size
    for start in range(0, size, CHUNK):
        digest.update(pread(fd, min(CHUNK, size - start), start, path))
    return size, digest.hexdigest()


def create(dir_fd: int, name: str, path: object) -> int:
    """Open a new file for writing and reading back; it must not exist, nor be a link."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | system.NO_LINK | system.BINARY
    with explained(path, "creating"):
        return int(change("create", os.open, name, flags, 0o666, dir_fd=dir_fd))


def reopen(dir_fd: int, name: str) -> int | None:
    """Open for writing a plain file that is nobody else's too; None when there is no such."""
    flags = os.O_RDWR | system.NO_LINK | system.NO_WAIT | system.BINARY
    try:
        fd = os.open(name, flags, dir_fd=dir_fd)
    except OSError:
        return None
    info = os.fstat(fd)
    if stat.S_ISREG(info.st_mode) and info.st_nlink == 1:
        return fd
    os.close(fd)
    return None


def pwrite_all(fd: int, data: memoryview | bytes, offset: int, path: object) -> None:
    """Write all of `data` at `offset`, looping over short writes."""
    view = memoryview(data).cast("B")
    done = 0
    while done < len(view):
        with explained(path, "writing"):
            n = change("pwrite", system.write_at, fd, view[done : done + CHUNK], offset + done)
        if n <= 0:
            raise EnvironmentFault(
                "writing failed: nothing was written", where=str(path), hint="check the disk"
            )
        done += n


def fsync(fd: int, path: object) -> None:
    """Force to disk; a failure is final, since a second try would report success falsely."""
    try:
        change("fsync", os.fsync, fd)
    except OSError as e:
        if e.errno == errno.EINVAL and stat.S_ISDIR(os.fstat(fd).st_mode):
            return  # this file system has no fsync of folders
        raise NotOnDisk(
            f"fsync failed: {os.strerror(e.errno or 0)}",
            where=str(path),
            hint=f"{HINTS.get(e.errno or 0, 'check the disk')}, then run the command again",
        ) from e


def rename(source: str, target: str, dir_fd: int, flags: int, path: object) -> None:
    """One atomic rename inside a folder: refuse to replace, or exchange the two names.

    Where the file system cannot do that atomically, several plain renames; see `aside`.
    """
    try:
        try:
            change("rename", _renameat2, dir_fd, source, target, flags)
        except OSError as e:
            if e.errno not in NO_SUCH_RENAME:
                raise
            _rename_portably(dir_fd, source, target, flags)
    except FileExistsError as e:
        raise OutputExists(
            "appeared while this run was working",
            where=str(path),
            hint="move it away, then run the same command with --resume",
        ) from e
    except OSError:
        with explained(path, "renaming into place"):
            raise


def aside(source: str) -> str:
    """Where a rename in several steps puts the old target meanwhile: found there after a crash."""
    return f"{source}.old"


def _renameat2(dir_fd: int, source: str, target: str, flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):  # macOS, old musl
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), target)
    failed = libc.renameat2(dir_fd, os.fsencode(source), dir_fd, os.fsencode(target), flags)
    if failed:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), target)


def _rename_portably(dir_fd: int, source: str, target: str, flags: int) -> None:
    """The one writer holds the lock, so that looking first is enough."""

    def step(old: str, new: str) -> None:
        change("rename", os.rename, old, new, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)

    if flags == RENAME_NOREPLACE:
        with contextlib.suppress(FileNotFoundError):
            os.stat(target, dir_fd=dir_fd, follow_symlinks=False)
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
        step(source, target)
        return
    step(target, aside(source))
    try:
        step(source, target)
    except OSError:
        step(aside(source), target)
        raise
    step(aside(source), source)
