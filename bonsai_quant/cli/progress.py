"""Progress as a person sees it: one moving line on a terminal, plain lines now and then in a pipe.

What only draws must not stop a run: a stream that is closed or full is written to no more, and any
other failure ends the drawing alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, TextIO

from .quiet_stream import QuietStream

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import Task

FIRST_S, OFTEN_S, SELDOM_S = 5.0, 5.0, 30.0
"""Seconds to the first plain line, between lines, and between lines after the first minute."""
WINDOW_S = 600.0
"""Seconds of work that the time left is estimated from."""


class Display:
    """Shows progress on a stream between `start` and `stop`; see `core.progress.Progress`."""

    def __init__(
        self, stream: TextIO, *, clock: Callable[[], float] = monotonic, live: bool | None = None
    ) -> None:
        """live: whether to draw a moving line; None: if `stream` is a terminal."""
        self._stream = QuietStream(stream)
        self._live = self._stream.isatty() if live is None else live
        self._clock, self._lock, self._ended = clock, threading.Lock(), threading.Event()
        self._bar: RichProgress | None = None
        self._said = self._began = clock()

    def start(self) -> None:
        """Begin to draw."""
        self._safely(self._start)

    def stop(self) -> None:
        """End, and leave no trace on a terminal."""
        self._ended.set()
        bar = self._bar
        if bar is not None and self._live:
            self._safely(bar.stop)
        self._bar = None

    def phase(
        self, label: str, total: int | None = None, unit: str = "", *, work: int | None = None
    ) -> None:
        """Show another phase."""
        self._safely(lambda: self._phase(label, total, unit, work))

    def advance(self, n: int = 1, *, work: int = 0) -> None:
        """Count, and draw at the next tick."""
        self._safely(lambda: self._advance(n, work))

    def note(self, text: str) -> None:
        """Show a figure beside the count."""
        self._safely(lambda: self._note(text))

    def tick(self) -> None:
        """In a pipe: write a line if it is time for one."""
        from .progress_bar import sentence

        now = self._clock()
        age = now - self._began
        wait = FIRST_S if self._said == self._began else OFTEN_S if age < 60 else SELDOM_S
        task = self._task()
        if task is not None and now - self._said >= wait:
            self._said = now
            self._stream.write(sentence(task) + "\n")
            self._stream.flush()

    def _start(self) -> None:
        from .progress_bar import make_bar

        self._bar = make_bar(self._stream, self._clock, live=self._live, window=WINDOW_S)
        if self._live:
            self._bar.start()
        else:
            threading.Thread(target=self._write_lines, daemon=True).start()

    def _write_lines(self) -> None:
        while not self._ended.wait(0.5):
            self._safely(self.tick)

    def _task(self) -> Task | None:
        tasks = self._bar.tasks if self._bar is not None else []
        return tasks[-1] if tasks else None

    def _phase(self, label: str, total: int | None, unit: str, work: int | None) -> None:
        with self._lock:
            if self._bar is None:
                return
            for old in self._bar.task_ids:
                self._bar.remove_task(old)
            amount = total if work is None else work
            self._bar.add_task(
                label, total=amount, items=0, of=total, unit=unit, note="", at=self._clock(),
                weighed=work is not None,
            )  # fmt: skip

    def _advance(self, n: int, work: int) -> None:
        with self._lock:
            task = self._task()
            if self._bar is not None and task is not None:
                task.fields["items"] += n
                task.fields["at"] = self._clock()
                self._bar.advance(task.id, work if task.fields["weighed"] else n)

    def _note(self, text: str) -> None:
        with self._lock:
            task = self._task()
            if task is not None:
                task.fields["note"] = text

    def _safely(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception:  # noqa: BLE001 - see the module
            self._ended.set()
            self._bar = None
