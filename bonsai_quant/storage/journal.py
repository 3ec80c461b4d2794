"""What an interrupted run had finished, one JSON line per tensor, bound to what it was doing.

Nothing in it is trusted: a line only says which bytes to check again, and only names that the plan
knows are looked up.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any

from ..errors import OutputExists
from . import fs
from .staging import Staging

NAME = ".journal"
LIMIT = 64 << 20


class Journal:
    """A staging folder's journal. `entries`: tensor name -> what an earlier run wrote of it."""

    def __init__(self, staging: Staging, purpose: dict[str, Any], *, resume: bool) -> None:
        self.path = staging.path / NAME
        key = hashlib.sha256(json.dumps(purpose, sort_keys=True).encode()).hexdigest()
        self.entries = _read(self.path, key, staging.target) if resume else {}
        self._lock = threading.Lock()
        staging.discard(NAME)
        self._staging = staging
        self._fd = staging.create(NAME)
        self._at = 0
        self._append({"purpose": key})

    def add(self, entry: dict[str, Any]) -> None:
        """Note a finished tensor. Not forced to disk: it is checked before it is believed."""
        with self._lock:
            self._append(entry)

    def _append(self, entry: dict[str, Any]) -> None:
        line = (json.dumps(entry, sort_keys=True) + "\n").encode()
        fs.pwrite_all(self._fd, line, self._at, self.path)
        self._at += len(line)

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._fd)

    def remove(self) -> None:
        """The run is complete: nothing is left to resume."""
        self._staging.discard(NAME)


def _read(path: Path, key: str, target: Path) -> dict[str, dict[str, Any]]:
    if not path.is_file() or path.is_symlink() or path.stat().st_size > LIMIT:
        return {}
    lines = [_parse(line) for line in fs.read_small(path, LIMIT).split(b"\n")]
    if not lines or not lines[0]:
        return {}
    if lines[0].get("purpose") != key:
        raise OutputExists(
            "the interrupted run there had another source, recipe, set of formats or version",
            where=str(target),
            hint="run without --resume to start again",
        )
    return {e["tensor"]: e for e in lines[1:] if e and isinstance(e.get("tensor"), str)}


def _parse(line: bytes) -> dict[str, Any]:
    """One line, or nothing when it was cut or is not ours."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
