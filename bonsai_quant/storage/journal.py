"""What an interrupted run had finished, one line per tensor, bound to what it was doing.

A line is a checksum and a JSON object. Nothing in it is trusted: a line only says which bytes to
check again, and only names that the plan knows are looked up.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from pathlib import Path
from typing import Any

import xxhash

from bonsai_quant.core.errors import BonsaiError, OutputExists

from . import fs
from .staging import Staging

NAME = ".journal"
LIMIT = 64 << 20

log = logging.getLogger(__name__)


class Journal:
    """A staging folder's journal. `entries`: tensor name -> what an earlier run wrote of it.

    With `resume`, an earlier journal is continued; when it is of no use, all that stands beside it
    is removed.
    """

    def __init__(
        self, staging: Staging, purpose: dict[str, Any], *, resume: bool, of: int = 0
    ) -> None:
        """of: how many tensors there will be."""
        self.path = staging.path / NAME
        self.entries: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()
        key = hashlib.sha256(json.dumps(purpose, sort_keys=True).encode()).hexdigest()
        fd = staging.reopen(NAME) if resume else None
        if fd is not None and self._continue(fd, key, staging.target):
            return
        if resume:
            log.warning("%s: nothing there to resume; starting from the beginning", staging.target)
            staging.start_again()
        self._fd, self._at = staging.create(NAME), 0
        self._append({"purpose": key, "of": of})

    def _continue(self, fd: int, key: str, target: Path) -> bool:
        """Read an earlier journal and go on behind its last whole line."""
        try:
            lines, end = _read(fd, self.path)
            if lines:
                _check_purpose(lines[0], key, target)
                self.entries = {e["tensor"]: e for e in lines[1:] if _names_tensor(e)}
                with fs.explained(self.path, "setting the size"):
                    fs.change("truncate", os.ftruncate, fd, end)
        except BaseException:
            os.close(fd)
            raise
        if self.entries:
            self._fd, self._at = fd, end
            return True
        os.close(fd)
        return False

    def add(self, entry: dict[str, Any]) -> None:
        """Note a finished tensor. Not forced to disk: it is checked before it is believed."""
        with self._lock:
            self._append(entry)

    def _append(self, entry: dict[str, Any]) -> None:
        text = json.dumps(entry, sort_keys=True).encode()
        line = b"%s %s\n" % (xxhash.xxh3_64_hexdigest(text).encode(), text)
        fs.pwrite_all(self._fd, line, self._at, self.path)
        self._at += len(line)

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._fd)


def finished(staging: Path) -> str:
    """How far the run came whose journal lies in a folder, in words; "" when nothing is of use."""
    path = staging / NAME
    if path.is_symlink():  # which no run of ours leaves, and none continues
        return ""
    try:
        fd, _ = fs.open_regular(path)
    except (OSError, BonsaiError):
        return ""
    try:
        lines, _ = _read(fd, path)
    except (OSError, BonsaiError):
        return ""
    finally:
        os.close(fd)
    done = len({e["tensor"] for e in lines[1:] if _names_tensor(e)})
    total = lines[0].get("of") if lines else None
    of = f" of {total:,}" if isinstance(total, int) and total >= done else ""
    return f"{done:,}{of} tensors done" if done else ""


def _read(fd: int, path: Path) -> tuple[list[dict[str, Any]], int]:
    """The good lines, if the first one says a purpose, and the byte where the last one ends."""
    size = os.fstat(fd).st_size
    text = bytes(fs.pread(fd, size, 0, path)) if size <= LIMIT else b""
    first, *others = (_parse(line) for line in text.split(b"\n")[:-1] or [b""])
    good = [line for line in others if line is not None]
    return [first, *good] if first and "purpose" in first else [], text.rfind(b"\n") + 1


def _parse(line: bytes) -> dict[str, Any] | None:
    """A line's object; None when it was cut or damaged or is not ours."""
    checksum, _, text = line.partition(b" ")
    if checksum != xxhash.xxh3_64_hexdigest(text).encode():
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _check_purpose(first: dict[str, Any], key: str, target: Path) -> None:
    if first.get("purpose") != key:
        raise OutputExists(
            "the interrupted run there had another source, recipe, set of formats or version",
            where=str(target),
            hint="run without --resume and with --overwrite to start again",
        )


def _names_tensor(entry: dict[str, Any]) -> bool:
    return isinstance(entry.get("tensor"), str)
