"""Folders held by descriptor: opened, locked, compared and removed without following a link."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Collection
from pathlib import Path

from bonsai_quant.core.errors import EnvironmentFault, OutputExists

from . import fs, system

OWNER = ".owner"
"""A file in a locked folder: who holds the lock, for people to read."""

Identity = tuple[int, int]
"""Device and inode of a file."""

log = logging.getLogger(__name__)


def open_folder(name: str | Path, dir_fd: int | None = None) -> int:
    """Descriptor of a folder; one inside `dir_fd` must not be a link."""
    system.require_folder_descriptors(name)
    flags = os.O_RDONLY | system.FOLDER | system.BINARY
    return os.open(name, flags if dir_fd is None else flags | system.NO_LINK, dir_fd=dir_fd)


def clear(folder_fd: int, path: Path, keep: Collection[str] = ()) -> dict[str, Identity]:
    """Remove all that is below a folder but the files `keep` (relative paths); follows no link.

    Returns the kept files that are there, by path.
    """
    kept: dict[str, Identity] = {}
    with fs.explained(path, "listing"):
        entries = sorted(os.scandir(folder_fd), key=lambda e: e.name)
    for entry in entries:
        name = entry.name
        with fs.explained(path / name, "removing"):
            if entry.is_dir(follow_symlinks=False):
                below = _clear_below(folder_fd, name, path, keep)
                kept |= {f"{name}/{p}": identity for p, identity in below.items()}
            elif name in keep:
                info = entry.stat(follow_symlinks=False)
                kept[name] = info.st_dev, info.st_ino
            else:
                fs.change("unlink", os.unlink, name, dir_fd=folder_fd)
    return kept


def _clear_below(
    folder_fd: int, name: str, path: Path, keep: Collection[str]
) -> dict[str, Identity]:
    below = {p.removeprefix(f"{name}/") for p in keep if p.startswith(f"{name}/")}
    fd = open_folder(name, folder_fd)
    try:
        kept = clear(fd, path / name, below)
    finally:
        os.close(fd)
    if not kept:
        fs.change("rmdir", os.rmdir, name, dir_fd=folder_fd)
    return kept


def remove(parent_fd: int, name: str, path: Path) -> None:
    """Remove a folder and all that is in it. What cannot be removed is left, with a warning."""
    try:
        fd = open_folder(name, parent_fd)
        try:
            clear(fd, path)
        finally:
            os.close(fd)
        fs.change("rmdir", os.rmdir, name, dir_fd=parent_fd)
    except (OSError, EnvironmentFault) as e:
        log.warning("%s could not be removed: %s", path, e)


def lock(folder_fd: int, target: Path) -> None:
    """Lock a folder until its descriptor is closed or this process dies, or say who has it."""
    with fs.explained(target, "locking"):
        try:
            system.lock(folder_fd)
        except BlockingIOError as e:
            raise OutputExists(
                f"is being written by {_owner(folder_fd)}",
                where=str(target),
                hint="wait for it, or choose another output with -o",
            ) from e


def sign(folder_fd: int, path: Path) -> None:
    """Leave our name for the message that a second process prints."""
    with fs.explained(path / OWNER, "removing"), contextlib.suppress(FileNotFoundError):
        fs.change("unlink", os.unlink, OWNER, dir_fd=folder_fd)
    fd = fs.create(folder_fd, OWNER, path / OWNER)
    try:
        text = f"process {os.getpid()} on {socket.gethostname()}"
        fs.pwrite_all(fd, text.encode(), 0, path / OWNER)
    finally:
        os.close(fd)


def _owner(folder_fd: int) -> str:
    try:
        fd = os.open(OWNER, os.O_RDONLY | system.NO_LINK | system.NO_WAIT, dir_fd=folder_fd)
    except OSError:
        return "another process"
    try:
        return os.read(fd, 200).decode(errors="replace") or "another process"
    finally:
        os.close(fd)


def contents(folder: Path) -> frozenset[tuple[object, ...]] | None:
    """What tells whether a folder was changed: all that is in it. None when it is not there."""
    if not os.path.lexists(folder):
        return None
    with fs.explained(folder, "looking at the output"):
        paths = [folder]
        for at, folders, names in os.walk(folder):
            paths += [Path(at, name) for name in (*folders, *names)]
        return frozenset((str(p), *fs.identity(os.lstat(p))) for p in paths)
