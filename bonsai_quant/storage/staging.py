"""Writing a folder so that it appears whole, by one rename, or not at all.

A staging folder stands beside the output, so that temporary and final names share a file system.
It is locked (flock on the folder itself, which the kernel frees when the process dies), every file
in it is created exclusively, and all paths are opened relative to its descriptor: a folder that is
deleted or replaced by a link while the run works cannot lead writes elsewhere.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from bonsai_quant.core.errors import EnvironmentFault, OutputExists, UsageError, VerificationFailed

from . import fs, system
from .earlier_run import give_up
from .folder import Identity, clear, contents, lock, open_folder, remove, sign
from .fs import NotOnDisk

APPEARED = "appeared or changed while this run was working"
REPLACED = "was removed or replaced during the run, or something in it or above it was"
MOVE_IT = "move it away, then run the same command with --resume"


class Staging:
    """A locked folder beside `target`. Use as `with Staging(target) as staging: ...`.

    keep: whether an unfinished folder stays, to be resumed.
    left: what of an interrupted run in such a folder can be continued, in words, "" when nothing.
    """

    def __init__(
        self, target: Path, *, overwrite: bool = False, resume: bool = False,
        left: Callable[[Path], str] = lambda folder: "",
    ) -> None:  # fmt: skip
        self.target = Path(os.path.abspath(target))
        self.name = f".{self.target.name}.staging"
        self.path = self.target.parent / self.name
        self.keep = False
        self._overwrite, self._resume, self._left = overwrite, resume, left
        self._fds: dict[str, int] = {}
        self._made: dict[str, Identity] = {}

    def __enter__(self) -> Staging:
        if not self.target.name:
            raise UsageError(f"{self.target} cannot be an output", hint="name a folder with -o")
        with fs.explained(self.target.parent, "opening the output's folder"):
            fs.change("mkdir", os.makedirs, self.target.parent, exist_ok=True)
            self.parent_fd = open_folder(self.target.parent)
        try:
            self.fd = self._locked_folder()
        except BaseException:
            os.close(self.parent_fd)
            raise
        try:
            self._settle_rename()
            self._before = contents(self.target)
            if self._before is not None and not self._overwrite:
                raise OutputExists(APPEARED, where=str(self.target), hint=MOVE_IT)
            if not self._resume:
                self.keep = True  # until it is sure that nothing of use is in it
                give_up(self.path, self._left(self.path), overwrite=self._overwrite)
                self.keep = False
                clear(self.fd, self.path)
            sign(self.fd, self.path)
        except BaseException:
            self.keep = self.keep or self._resume
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._fds.values():
            os.close(fd)
        if not self.keep and self._in_place(self.fd):
            remove(self.parent_fd, self.name, self.path)
        os.close(self.fd)
        os.close(self.parent_fd)

    def _locked_folder(self) -> int:
        with (
            fs.explained(self.path, "creating the staging folder"),
            contextlib.suppress(FileExistsError),
        ):
            fs.change("mkdir", os.mkdir, self.name, 0o777, dir_fd=self.parent_fd)
        with fs.explained(self.path, "opening the staging folder"):
            try:
                fd = open_folder(self.name, self.parent_fd)
            except FileNotFoundError:  # its owner finished between our mkdir and our open
                return self._locked_folder()
        try:
            lock(fd, self.target)
        except BaseException:
            os.close(fd)
            raise
        if not self._in_place(fd):  # its owner finished between our open and our lock
            os.close(fd)
            return self._locked_folder()
        return fd

    def _in_place(self, fd: int) -> bool:
        """Whether the staging name still leads to the folder that we hold as `fd`."""
        try:
            named = os.stat(self.name, dir_fd=self.parent_fd, follow_symlinks=False)
        except OSError:
            return False
        return os.path.samestat(os.fstat(fd), named)

    def _settle_rename(self) -> None:
        """Undo or end a rename in several steps (see `fs.rename`) that a crash had cut."""
        aside = fs.aside(self.name)
        if not os.path.lexists(self.target.parent / aside):
            return
        if os.path.lexists(self.target):
            remove(self.parent_fd, aside, self.target.parent / aside)
            return
        fs.rename(aside, self.target.name, self.parent_fd, fs.RENAME_NOREPLACE, self.target)
        raise OutputExists(
            "was moved away by an interrupted --overwrite, and is back",
            where=str(self.target),
            hint="run the same command again",
        )

    def start_again(self) -> None:
        """Remove what an earlier run left: nothing of it can be used."""
        clear(self.fd, self.path)
        sign(self.fd, self.path)

    def folder_fd(self, relative: str) -> int:
        """Descriptor of a sub-folder (`a/b`), made when it is not there."""
        if relative in ("", "."):
            return self.fd
        if relative not in self._fds:
            above, _, name = relative.rpartition("/")
            parent = self.folder_fd(above)
            with fs.explained(self.path / relative, "creating a folder"):
                with contextlib.suppress(FileExistsError):
                    fs.change("mkdir", os.mkdir, name, 0o777, dir_fd=parent)
                self._fds[relative] = open_folder(name, parent)
        return self._fds[relative]

    def create(self, relative: str) -> int:
        """Descriptor of a new file, open for writing and reading back."""
        folder, _, name = relative.rpartition("/")
        fd = fs.create(self.folder_fd(folder), name, self.path / relative)
        self._made[relative] = _identity(fd)
        return fd

    def reopen(self, relative: str) -> int | None:
        """Descriptor of a file that an interrupted run left, or None."""
        folder, _, name = relative.rpartition("/")
        fd = fs.reopen(self.folder_fd(folder), name)
        if fd is not None:
            self._made[relative] = _identity(fd)
        return fd

    def discard(self, relative: str) -> None:
        """Remove a file if it is there."""
        folder, _, name = relative.rpartition("/")
        with fs.explained(self.path / relative, "removing"), contextlib.suppress(FileNotFoundError):
            fs.change("unlink", os.unlink, name, dir_fd=self.folder_fd(folder))

    def write_file(self, relative: str, data: bytes) -> None:
        """A whole small file, forced to disk; what an interrupted run left of it is replaced."""
        path = self.path / relative
        self.discard(relative)
        fd = self.create(relative)
        try:
            fs.pwrite_all(fd, data, 0, path)
            fs.fsync(fd, path)
            with fs.explained(path, "reading back"):
                read_back = _read_back(fd, len(data) + 1)
        finally:
            os.close(fd)
        if read_back != data:
            raise VerificationFailed(fs.READS_BACK, where=str(path), hint="use another disk")

    def commit(self, files: Collection[str]) -> None:
        """Rename the folder into place; the only step that changes `target`.

        files: all that belongs in it. Anything else, the journal too, is removed.
        """
        self._check_places()
        kept = clear(self.fd, self.path, files)
        if kept != {f: self._made[f] for f in files}:
            raise EnvironmentFault(REPLACED, where=str(self.path), hint="run the command again")
        for folder, fd in sorted(self._fds.items()):
            fs.fsync(fd, self.path / folder)
        fs.fsync(self.fd, self.path)
        if self._before is not None:
            self._exchange()
            return
        fs.rename(self.name, self.target.name, self.parent_fd, fs.RENAME_NOREPLACE, self.target)
        fs.fsync(self.parent_fd, self.target.parent)

    def _check_places(self) -> None:
        """Refuse when the output, its folder or the staging folder are not as at the start."""
        try:
            parent = os.path.samestat(os.stat(self.target.parent), os.fstat(self.parent_fd))
        except OSError:
            parent = False
        if not parent or not self._in_place(self.fd):
            raise EnvironmentFault(REPLACED, where=str(self.path), hint="run the command again")
        if contents(self.target) != self._before:
            raise OutputExists(APPEARED, where=str(self.target), hint=MOVE_IT)

    def _exchange(self) -> None:
        """Put the folder in the place of an earlier output, and remove that one."""
        with fs.explained(self.target, "opening the earlier output"):
            old = open_folder(self.target.name, self.parent_fd)
        try:
            lock(old, self.target)  # it gets the staging name, which others must not take from us
            fs.rename(self.name, self.target.name, self.parent_fd, fs.RENAME_EXCHANGE, self.target)
            fs.fsync(self.parent_fd, self.target.parent)
            remove(self.parent_fd, self.name, self.path)
        finally:
            os.close(old)


def _read_back(fd: int, size: int) -> bytes:
    buffer = bytearray(size)
    return bytes(buffer[: system.read_at(fd, memoryview(buffer), 0)])


def _identity(fd: int) -> Identity:
    info = os.fstat(fd)
    return info.st_dev, info.st_ino


@contextlib.contextmanager
def kept_for_resume(staging: Staging) -> Iterator[None]:
    """Keep the staging folder after an interruption or a machine's fault, not after bad input."""
    try:
        yield
    except NotOnDisk:
        raise
    except EnvironmentFault as e:
        staging.keep = True
        e.hint = f"{e.hint}; the same command with --resume continues".removeprefix("; ")
        raise
    except (OutputExists, MemoryError):
        staging.keep = True
        raise
    except BaseException as e:
        staging.keep = not isinstance(e, Exception)
        raise
