"""Plain text for people: aligned columns, and names with the block number taken out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from .errors import printable
from .schema import PlannedTensor


def columns(rows: Iterable[Sequence[object]], right: Sequence[int] = ()) -> str:
    """Rows of cells as aligned text; the columns numbered in `right` are set to the right."""
    cells = [[printable(c) for c in row] for row in rows]
    widths = [
        max(len(r[i]) for r in cells if i < len(r)) for i in range(max(map(len, cells), default=0))
    ]
    lines = []
    for row in cells:
        parts = [
            c.rjust(w) if i in right else c.ljust(w)
            for i, (c, w) in enumerate(zip(row, widths, strict=False))
        ]
        lines.append("  ".join(parts).rstrip())
    return "\n".join(lines)


def grouped(tensors: Sequence[PlannedTensor]) -> list[tuple[str, int, str, str, str]]:
    """(name with `*` for block numbers, count, shape, action, rule), one row per kind."""
    groups: dict[tuple[str, tuple[int, ...], str, str], int] = {}
    for t in tensors:
        name = re.sub(r"(?<=blocks\.)\d+", "*", t.tensor.linear)
        key = (name, t.tensor.shape, t.tensor.action, t.rule)
        groups[key] = groups.get(key, 0) + 1
    return [
        (name, n, " x ".join(map(str, shape)), action, rule)
        for (name, shape, action, rule), n in groups.items()
    ]
