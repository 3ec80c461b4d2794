"""An answer of a command: text and tables for people, and data for --json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bonsai_quant.core.text import columns

MARKS = {"passed": "passed", "failed": "FAILED", "not run": "not run", "measured": "measured"}


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells; the columns numbered in `right` are set to the right. Heads are a first row.

    A terminal folds cells where its width asks for it; in a pipe no line is cut.
    """

    rows: Sequence[Sequence[object]]
    right: Sequence[int] = ()

    @property
    def text(self) -> str:
        """Aligned with blanks, as wide as it is."""
        return columns(self.rows, self.right)


@dataclass(frozen=True, slots=True)
class Answer:
    """content: for people, one part below the other.  data: for `--json`."""

    content: str | Sequence[str | Table]
    data: dict[str, Any]

    @property
    def parts(self) -> tuple[str | Table, ...]:
        """The content, part by part."""
        return (self.content,) if isinstance(self.content, str) else tuple(self.content)

    @property
    def text(self) -> str:
        """The content as plain text."""
        return "\n".join(p if isinstance(p, str) else p.text for p in self.parts)
