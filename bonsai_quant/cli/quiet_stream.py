"""A stream whose loss is not noticed: for what is shown and need not be seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TextIO


class QuietStream:
    """A text stream that is written to until writing fails, and then never again."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._lost = stream, False

    def _try(self, action: Callable[[], Any], otherwise: Any) -> Any:
        if self._lost:
            return otherwise
        try:
            return action()
        except Exception:  # noqa: BLE001 - closed, full, of another encoding: nothing can be shown
            self._lost = True
            return otherwise

    def write(self, text: str) -> int:
        """Write if that is still possible; -> the length of the text in any case."""
        self._try(lambda: self._stream.write(text), 0)
        return len(text)

    def flush(self) -> None:
        """Flush if that is still possible."""
        self._try(self._stream.flush, None)

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return bool(self._try(self._stream.isatty, False))

    def fileno(self) -> int:
        """The descriptor."""
        return self._stream.fileno()

    @property
    def encoding(self) -> str:
        """How characters become bytes."""
        return self._stream.encoding or "utf-8"
