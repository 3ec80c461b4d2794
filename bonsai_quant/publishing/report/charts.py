"""The charts of a page, as SVG for light and for dark paper."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .records import PackReport
from .survey import PER_OCTAVE
from .tables import BLOCK, errors

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Ink:
    """Colours of one scheme: text, lines of the grid, and one for each series."""

    text: str
    grid: str
    series: tuple[str, ...]


LIGHT = Ink("#4c5560", "#d9dee4", ("#0b6e4f", "#b4451f", "#3a6ea5", "#7b4fa3", "#8a6d00"))
DARK = Ink("#a9b3bd", "#343b42", ("#5cc9a0", "#f08a5d", "#7fb2e5", "#c49be8", "#e0c050"))
MARKERS = "osD^v"
"""Series differ in their marks too: not everybody tells their colours apart."""


@dataclass(frozen=True, slots=True)
class Chart:
    """Two pictures as data: URLs, and what they show in words."""

    light: str
    dark: str
    says: str


def error_chart(packs: tuple[PackReport, ...]) -> Chart | None:
    """The error of every layer in the order of the network, a series for each pack."""
    shown = [p for p in packs if any(errors(p).values())]
    if not shown:
        return None
    highest = max(shown, key=lambda p: max(errors(p).values()))
    layer, error = max(errors(highest).items(), key=lambda e: e[1])
    says = f"Relative error of each layer; the largest is {error:.3f}, in {layer} of {highest.name}"
    return _both(lambda ink: draw_errors(shown, ink), says)


def draw_errors(packs: list[PackReport], ink: Ink) -> Figure:
    """A legend for every series, and lines where the single blocks begin."""
    figure, axes = _axes(ink, 3.4)
    for i, pack in enumerate(packs):
        values = list(errors(pack).values())
        mark, colour = MARKERS[i % len(MARKERS)], ink.series[i % len(ink.series)]
        axes.plot(range(1, len(values) + 1), values, label=pack.name, lw=1.2, ms=4,
                  marker=mark, color=colour)  # fmt: skip
    names = list(errors(packs[0]))
    singles = [i for i, n in enumerate(names, 1) if (m := BLOCK.match(n)) and m[1]]
    if singles and singles[0] > 1:
        axes.axvline(singles[0] - 0.5, color=ink.text, ls=":", lw=1, label="single blocks begin")
    axes.set(xlabel="layer, in the order of the network", ylabel="||w - s t|| / ||w||")
    axes.set_ylim(bottom=0)
    _legend(figure, ink)
    return figure


def scale_chart(pack: PackReport) -> Chart | None:
    """How many groups have a scale of each size."""
    bins = pack.survey.bins
    if not bins:
        return None
    low, high = bins[0][0], bins[-1][0] * 2 ** (1 / PER_OCTAVE)
    says = f"Histogram of the scales, which lie between {low:.3g} and {high:.3g}"
    return _both(lambda ink: draw_scales(pack, ink), says)


def draw_scales(pack: PackReport, ink: Ink) -> Figure:
    """Bars a quarter of an octave wide, on a logarithmic axis."""
    figure, axes = _axes(ink, 2.4)
    lefts = [low for low, _ in pack.survey.bins]
    widths = [low * (2 ** (1 / PER_OCTAVE) - 1) for low in lefts]
    axes.bar(lefts, [n for _, n in pack.survey.bins], widths, align="edge", color=ink.series[0],
             edgecolor="none", label="groups of 128 weights")  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:.5g}")
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:,.0f}")
    axes.set(xlabel="scale", ylabel="groups")
    return figure


def score_chart(packs: tuple[PackReport, ...]) -> Chart | None:
    """The score of each category with its interval: the source, then each pack."""
    scored = [p for p in packs if p.score]
    if not scored:
        return None
    return _both(lambda ink: draw_scores(scored, ink), "Scores by category with 95 % intervals")


def draw_scores(packs: list[PackReport], ink: Ink) -> Figure:
    """A mark and its interval for each category; the source, where there is one, comes first."""
    figure, axes = _axes(ink, 3.2)
    series = [(p.name, p.score or {}) for p in packs]
    first = series[0][1]
    if first["reference"]:
        series.insert(0, (str(first["against"]), first["reference"]))
    names = ["overall", *first["categories"]]
    for i, (label, data) in enumerate(series):
        figures = [data["overall"]["score"], *(data["categories"][n]["score"] for n in names[1:])]
        values = [100 * (f["value"] or 0) for f in figures]
        below = [v - 100 * (f["low"] or 0) for v, f in zip(values, figures, strict=True)]
        above = [100 * (f["high"] or 0) - v for v, f in zip(values, figures, strict=True)]
        colour = ink.text if i == 0 and first["reference"] else ink.series[i % len(ink.series)]
        places = [x + 0.5 * (i + 0.5) / len(series) - 0.25 for x in range(len(names))]
        axes.errorbar(places, values, [[max(0, b) for b in below], [max(0, a) for a in above]],
                      fmt=MARKERS[i % len(MARKERS)], ms=6, lw=1.6, capsize=3, label=label,
                      color=colour)  # fmt: skip
    axes.set_xticks(range(len(names)), [n.replace("_", "\n") for n in names])
    axes.set(ylim=(0, 105), ylabel="pictures that show the caption, %")
    _legend(figure, ink)
    return figure


def _axes(ink: Ink, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.subplots()
    axes.patch.set_alpha(0)
    axes.grid(axis="y", color=ink.grid, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=ink.text, labelsize=8)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(ink.text)
        label.set_fontsize(9)
    for side in axes.spines.values():
        side.set_visible(False)
    return figure, axes


def _legend(figure: Figure, ink: Ink) -> None:
    figure.legend(loc="outside upper left", ncols=3, frameon=False, labelcolor=ink.text, fontsize=9)


def _both(draw: Callable[[Ink], Figure], says: str) -> Chart:
    return Chart(_svg(draw, LIGHT), _svg(draw, DARK), says)


def _svg(draw: Callable[[Ink], Figure], ink: Ink) -> str:
    import matplotlib

    # Letters stay letters: a tenth of the bytes. The salt makes the same chart the same bytes.
    settings: dict[str, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "bonsai",
        "font.family": "sans-serif",
    }
    text = io.StringIO()
    with matplotlib.rc_context(settings):
        draw(ink).savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(text.getvalue().encode()).decode()
