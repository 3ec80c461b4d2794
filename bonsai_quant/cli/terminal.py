"""Answers on a terminal: tables as wide as it is, and colour beside words that say the same."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bonsai_quant.core.errors import printable
from bonsai_quant.core.version import TOOL

from .views.answer import Table

if TYPE_CHECKING:
    from rich.console import RenderableType

STYLES = {
    "passed": "green", "ok": "green", "FAILED": "bold red", "missing": "magenta",
    "not run": "magenta", "?": "magenta",
}  # fmt: skip
"""Words that stand alone in a cell. Nothing is said by colour alone."""
COMMAND = re.compile(rf"^next: |^  |{TOOL} ")
"""Lines that are to be copied."""
LEAST = 16
"""Columns that the widest cell keeps; below this the others fold, too."""
GAP = 2


def rendered(parts: Sequence[str | Table]) -> str:
    """The parts as the terminal of stdout shows them. NO_COLOR is followed.

    A line with a command is left to the terminal, so that it is copied as one; prose is folded.
    """
    from rich.console import Console

    console = Console(force_terminal=True, highlight=False, markup=False, emoji=False)
    with console.capture() as capture:
        for part in parts:
            if isinstance(part, Table):
                console.print(_table(part, console.width))
            else:
                for line in part.split("\n"):
                    console.print(line, soft_wrap=bool(COMMAND.search(line)))
    return capture.get().rstrip("\n")


def _table(table: Table, width: int) -> RenderableType:
    from rich.table import Table as Grid
    from rich.text import Text

    rows = [[printable(c) for c in row] for row in table.rows]
    n = max(map(len, rows), default=0)
    widths = [max((len(r[i]) for r in rows if i < len(r)), default=0) for i in range(n)]
    widest = max(range(n), key=lambda i: widths[i], default=0)
    others = sum(w + GAP for i, w in enumerate(widths) if i != widest)
    if others + LEAST <= width:
        rows = [[_folded(c, width - others) if i == widest else c for i, c in enumerate(r)]
                for r in rows]  # fmt: skip
    grid = Grid.grid(padding=(0, GAP, 0, 0), pad_edge=False)
    for i in range(n):
        keep = i != widest and others + LEAST <= width
        grid.add_column(
            justify="right" if i in table.right else "left", overflow="fold", no_wrap=keep
        )
    for row in rows:
        grid.add_row(*(Text(c, style=STYLES.get(c, "")) for c in row))
    return grid


def _folded(cell: str, width: int) -> str:
    """Lines of at most `width`, cut behind a blank, or else inside a name behind its marks."""
    indent = " " * (len(cell) - len(cell.lstrip()))
    lines, line = [], ""
    for piece in re.findall(r"\s*\S+?(?:[/._-]+|(?=\s)|$)", cell):
        if line and len(line + piece) > width:
            lines.append(line)
            line, piece = indent, piece.lstrip()
        line += piece
    return "\n".join([*lines, line])
