"""A progress that remembers what it was told, or acts on it."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable

LINE = re.compile(r"^[^\n]+: (?:[^\n]*, )?\d+:\d\d(?:, about [\d:]+ left)?\n", re.M)
"""A line of progress, as a pipe gets it from a command that takes some seconds."""


def without_progress(text: str) -> str:
    """What else was said on stderr."""
    return LINE.sub("", text)


class Watching:
    """phases: (label, total, unit) in order.  done: items of each, by its place.

    on_advance: called with the number of items of every `advance`.
    """

    def __init__(self, on_advance: Callable[[int], None] = lambda n: None) -> None:
        self.phases: list[tuple[str, int | None, str]] = []
        self.done: list[int] = []
        self.notes: list[str] = []
        self._on_advance, self._lock = on_advance, threading.Lock()

    def phase(self, label, total=None, unit="", *, work=None) -> None:
        with self._lock:
            self.phases.append((label, total, unit))
            self.done.append(0)

    def advance(self, n=1, *, work=0) -> None:
        with self._lock:
            self.done[-1] += n
        self._on_advance(n)

    def note(self, text) -> None:
        self.notes.append(text)

    def of(self, label) -> tuple[int, int | None]:
        """Items done and asked for in the phase of that label."""
        (at,) = (i for i, phase in enumerate(self.phases) if phase[0] == label)
        return self.done[at], self.phases[at][1]
