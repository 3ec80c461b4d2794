"""layers.csv: one line per tensor, what it became and what rounding did to it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

from bonsai_quant.core.schema import LayerStats

COLUMNS = (
    "name",
    "shape",
    "action",
    "relative_error",
    "sqnr_db",
    "cosine",
    "zero_share",
    "scale_min",
    "scale_max",
    "groups_below_grid",
    "inexact",
    "source_bytes",
    "stored_bytes",
)


def layers_csv(stats: Iterable[LayerStats]) -> bytes:
    """Sorted by name; numbers with 9 significant digits; an empty cell means not measured."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for s in sorted(stats, key=lambda s: s.name):
        writer.writerow(_cell(getattr(s, c)) for c in COLUMNS)
    return text.getvalue().encode()


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return "x".join(str(n) for n in value)
    return f"{value:.9g}" if isinstance(value, float) else str(value)
