"""Curves of a run: rows in memory, as CSV for programs and as a plot for people."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, float]


class Curve:
    """Rows with a `step`; a run that goes on from a checkpoint drops those behind it."""

    def __init__(self, text: bytes = b"", *, until: int = 0) -> None:
        rows = csv.DictReader(io.StringIO(text.decode()))
        self.rows: list[Row] = [{k: float(v) for k, v in r.items() if v} for r in rows]
        self.rows = [r for r in self.rows if r["step"] <= until]

    def add(self, step: int, **values: float) -> None:
        """One more row."""
        self.rows.append({"step": step, **values})

    def text(self) -> bytes:
        """As CSV, numbers with 6 significant digits."""
        names = list(dict.fromkeys(k for r in self.rows for k in r))
        out = io.StringIO()
        writer = csv.DictWriter(out, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" for k, v in r.items()} for r in self.rows)
        return out.getvalue().encode()


def plot(curve: Curve, held_out: Curve) -> bytes:
    """A PNG of `draw`."""
    png = io.BytesIO()
    draw(curve, held_out).savefig(png, format="png", metadata={"Software": None})
    return png.getvalue()


def draw(curve: Curve, held_out: Curve) -> Figure:
    """The loss and the held-out error, on a logarithmic scale, and the held-out score."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    for rows, key, name in ((curve.rows, "loss", "loss"), (held_out.rows, "error", "held out")):
        axes.semilogy([r["step"] for r in rows], [r[key] for r in rows], label=name)
    axes.set_xlabel("updates")
    axes.set_ylabel("squared error / teacher's mean square")
    judged = [r for r in held_out.rows if "score" in r]
    if judged:
        right = axes.twinx()
        right.plot([r["step"] for r in judged], [r["score"] for r in judged], "C2.-", label="score")
        right.set(ylim=(0, 1), ylabel="held-out pictures that show what is said")
    # One legend of the figure: that of an axis has the lines of this axis alone.
    figure.legend(loc="outside lower center", ncols=3)
    axes.grid(alpha=0.3)
    return figure
