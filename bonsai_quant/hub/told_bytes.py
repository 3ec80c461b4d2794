"""What the Hub's client counts while it fetches a file, told to our own progress."""

from __future__ import annotations

import threading
from typing import Any

from bonsai_quant.core.progress import Progress


class ToldBytes:
    """Counts the bytes of one file, once, however many bars and tries the client has for it."""

    def __init__(self, progress: Progress, size: int) -> None:
        self._progress, self._size = progress, size
        self._told, self._lock = 0, threading.Lock()

    def reach(self, n: int) -> None:
        """So many bytes are there by one of the client's counts."""
        with self._lock:
            more = min(n, self._size) - self._told
            if more > 0:
                self._told += more
                self._progress.advance(more)

    def end(self) -> None:
        """The file is whole."""
        self.reach(self._size)

    def bar(self) -> type:
        """A class for the client's `tqdm_class`: draws nothing, and tells what it counts."""
        from huggingface_hub.utils import tqdm

        told = self

        class Bar(tqdm):  # type: ignore[misc]
            def __init__(self, *args: Any, **options: Any) -> None:
                start = int(options.get("initial") or 0)
                super().__init__(*args, **options | {"disable": True})
                self.n = start
                told.reach(start)

            def update(self, n: float | None = 1) -> None:
                self.n += int(n or 0)
                told.reach(self.n)

        return Bar
