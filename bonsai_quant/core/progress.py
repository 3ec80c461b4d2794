"""What a long function says while it works: which phase it is in, and how far it is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told of phases, one after another, and of what is done in each. Callable from any thread."""

    def phase(
        self, label: str, total: int | None = None, unit: str = "", *, work: int | None = None
    ) -> None:
        """A new phase begins, and the one before it has ended.

        label: what is done now, such as "reading source".  total: items of it, None when unknown.
        unit: what an item is, in the plural; "bytes" are shown as sizes.
        work: the amount of it, where items differ in size; the time left is estimated from it.
        """

    def advance(self, n: int = 1, *, work: int = 0) -> None:
        """n more items of the phase are done, and so much more of its work."""

    def note(self, text: str) -> None:
        """A figure beside the count, such as a loss, until the next note or phase."""


class NoProgress:
    """Says nothing."""

    def phase(
        self, label: str, total: int | None = None, unit: str = "", *, work: int | None = None
    ) -> None:
        """Say nothing."""

    def advance(self, n: int = 1, *, work: int = 0) -> None:
        """Say nothing."""

    def note(self, text: str) -> None:
        """Say nothing."""


no_progress: Progress = NoProgress()
"""The default of every function that takes a progress."""
