"""Writing a folder so that it appears whole, by one rename, or not at all.

A staging folder stands beside the output, so that temporary and final names share a file system.
It is locked (flock on the folder itself, which the kernel frees when the process dies), every file
in it is created exclusively, and all paths are opened relative to its descriptor: a folder that is
deleted or replaced by a link while the run works cannot lead writes elsewhere.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import stat
from pathlib import Path

from ..errors import EnvironmentFault, OutputExists, UsageError
from . import fs

OWNER = ".owner"


class Staging:
    """A locked folder beside `target`. Use as `with Staging(target) as staging: ...`."""

    def __init__(self, target: Path, *, resume: bool = False) -> None:
        self.target = Path(os.path.abspath(target))
        self.name = f".{self.target.name}.staging"
        self.path = self.target.parent / self.name
        self.keep = False
        self._resume = resume
        self._fds: dict[str, int] = {}

    def __enter__(self) -> Staging:
        parent = self.target.parent
        if not self.target.name:
            raise UsageError(f"{self.target} cannot be an output", hint="name a folder with -o")
        with fs.explained(parent, "opening the output's folder"):
            os.makedirs(parent, exist_ok=True)
            self.parent_fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.fd = self._locked_folder()
            if not self._resume:
                _empty(self.fd)
            self._sign()
        except BaseException:
            os.close(self.parent_fd)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._fds.values():
            os.close(fd)
        if not self.keep and self._in_place():
            shutil.rmtree(self.path, ignore_errors=True)
        os.close(self.fd)
        os.close(self.parent_fd)

    def _locked_folder(self) -> int:
        with (
            fs.explained(self.path, "creating the staging folder"),
            contextlib.suppress(FileExistsError),
        ):
            fs._do("mkdir", os.mkdir, self.name, 0o777, dir_fd=self.parent_fd)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        with fs.explained(self.path, "opening the staging folder"):
            fd = os.open(self.name, flags, dir_fd=self.parent_fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            owner = _read_owner(fd)
            os.close(fd)
            raise OutputExists(
                f"is being written by {owner}",
                where=str(self.target),
                hint="wait for it, or choose another output with -o",
            ) from e
        if not self._in_place(fd):  # the former owner finished between our open and our lock
            os.close(fd)
            return self._locked_folder()
        return fd

    def _in_place(self, fd: int | None = None) -> bool:
        """Whether the staging name still leads to the folder that we hold."""
        held = os.fstat(self.fd if fd is None else fd)
        try:
            named = os.stat(self.name, dir_fd=self.parent_fd, follow_symlinks=False)
        except OSError:
            return False
        return (held.st_dev, held.st_ino) == (named.st_dev, named.st_ino)

    def _sign(self) -> None:
        """Leave the owner's name for the message that a second process prints."""
        self.discard(OWNER)
        fd = fs.create(self.fd, OWNER, self.path / OWNER)
        try:
            text = f"process {os.getpid()} on {socket.gethostname()}"
            fs.pwrite_all(fd, text.encode(), 0, self.path / OWNER)
        finally:
            os.close(fd)

    def folder_fd(self, relative: str) -> int:
        """Descriptor of a sub-folder (`a/b`), made when it is not there."""
        if relative in ("", "."):
            return self.fd
        if relative not in self._fds:
            above, _, name = relative.rpartition("/")
            parent = self.folder_fd(above)
            with fs.explained(self.path / relative, "creating a folder"):
                with contextlib.suppress(FileExistsError):
                    fs._do("mkdir", os.mkdir, name, 0o777, dir_fd=parent)
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                self._fds[relative] = os.open(name, flags, dir_fd=parent)
        return self._fds[relative]

    def create(self, relative: str) -> int:
        """Descriptor of a new file, open for writing and reading back."""
        folder, _, name = relative.rpartition("/")
        return fs.create(self.folder_fd(folder), name, self.path / relative)

    def reopen(self, relative: str) -> int | None:
        """Descriptor of a file that an interrupted run left, or None."""
        folder, _, name = relative.rpartition("/")
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(name, flags, dir_fd=self.folder_fd(folder))
        except OSError:
            return None
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
        return None

    def discard(self, relative: str) -> None:
        """Remove a file if it is there."""
        folder, _, name = relative.rpartition("/")
        with fs.explained(self.path / relative, "removing"), contextlib.suppress(FileNotFoundError):
            fs._do("unlink", os.unlink, name, dir_fd=self.folder_fd(folder))

    def write_file(self, relative: str, data: bytes) -> None:
        """A whole small file, forced to disk; what an interrupted run left of it is replaced."""
        self.discard(relative)
        fd = self.create(relative)
        try:
            fs.pwrite_all(fd, data, 0, self.path / relative)
            fs.fsync(fd, self.path / relative)
        finally:
            os.close(fd)

    def commit(self, files: set[str], *, overwrite: bool) -> None:
        """Rename the folder into place; the only step that changes `target`.

        files: all that belongs in it. Anything else, left by an earlier run, is removed.
        """
        _remove_others(self.path, files)
        for folder, fd in sorted(self._fds.items()):
            fs.fsync(fd, self.path / folder)
        fs.fsync(self.fd, self.path)
        if not self._in_place():
            raise EnvironmentFault(
                "the staging folder was removed or replaced during the run",
                where=str(self.path),
                hint="run the command again",
            )
        there = os.path.lexists(self.target)
        flags = fs.RENAME_EXCHANGE if there and overwrite else fs.RENAME_NOREPLACE
        fs.rename(self.name, self.target.name, self.parent_fd, flags, self.target)
        fs.fsync(self.parent_fd, self.target.parent)
        # After an exchange the staging name holds the old output, which __exit__ must remove.
        if flags == fs.RENAME_EXCHANGE:
            shutil.rmtree(self.path, ignore_errors=True)


def _remove_others(folder: Path, files: set[str]) -> None:
    """Remove every file below `folder` that is not listed, and every folder that is left empty."""
    for at, folders, names in os.walk(folder, topdown=False):
        for name in names:
            path = os.path.join(at, name)
            if os.path.relpath(path, folder) not in files:
                fs._do("unlink", os.unlink, path)
        for name in folders:
            with contextlib.suppress(OSError):
                os.rmdir(os.path.join(at, name))


def _read_owner(fd: int) -> str:
    try:
        owner = os.open(OWNER, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=fd)
    except OSError:
        return "another process"
    try:
        return os.read(owner, 200).decode(errors="replace") or "another process"
    finally:
        os.close(owner)


def _empty(folder_fd: int) -> None:
    """Remove what a former run left, without following links."""
    for entry in os.scandir(folder_fd):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.name, dir_fd=folder_fd)
        else:
            fs._do("unlink", os.unlink, entry.name, dir_fd=folder_fd)


def free_bytes(folder: Path) -> int:
    """Bytes that a process without privileges may still write beside `folder`."""
    at = Path(os.path.abspath(folder))
    while not at.exists() and at != at.parent:
        at = at.parent
    with fs.explained(at, "asking for free space"):
        info = os.statvfs(at)
    return info.f_bavail * info.f_frsize


def check_writable(folder: Path) -> None:
    """Refuse early when nothing can be created where the output will stand."""
    at = Path(os.path.abspath(folder)).parent
    while not at.exists() and at != at.parent:
        at = at.parent
    if not at.is_dir():
        raise UsageError(f"{at} is not a folder", hint="choose another output with -o")
    if not os.access(at, os.W_OK | os.X_OK):
        raise EnvironmentFault(
            "nothing can be created here",
            where=str(at),
            hint="check the permissions, or choose another output with -o",
        )
