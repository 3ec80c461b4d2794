"""The moving line itself, drawn by rich; imported when a command starts to work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task
from rich.table import Column
from rich.text import Text

from bonsai_quant.core import numbers

from .quiet_stream import QuietStream

BAR = 6
"""Columns that the bar takes at least, with the gap before it."""
TICKS_PER_S = 4
"""How often a terminal's line is drawn, whether anything advances or not."""


class _Console(Console):
    """Leaves the cursor where it is: a killed run must not take it from the terminal."""

    def show_cursor(self, show: bool = True) -> bool:
        """Do nothing."""
        return False


class _Sentence(ProgressColumn):
    """All that is known of a phase, as in a pipe."""

    max_refresh = None

    def __init__(self, console: Console) -> None:
        super().__init__(Column(no_wrap=True, overflow="ellipsis"))
        self._console = console

    def render(self, task: Task) -> Text:
        return Text(sentence(task, self._console.width - BAR))


def make_bar(
    stream: QuietStream, clock: Callable[[], float], *, live: bool, window: float
) -> Progress:
    """A bar that is not started yet. window: seconds that the rate is measured over."""
    console = _Console(
        file=cast(Any, stream), force_terminal=live or None, highlight=False, soft_wrap=False
    )
    return Progress(
        _Sentence(console),
        BarColumn(bar_width=None, table_column=Column(ratio=1)),
        console=console, get_time=clock, transient=True, expand=True,
        speed_estimate_period=window, refresh_per_second=TICKS_PER_S,
    )  # fmt: skip


def sentence(task: Task, room: int | None = None) -> str:
    """How far a phase is: `converting: 34 of 116 tensors, 41.0 %, 0:12, about 0:17 left`.

    room: columns that there are; for these the share and the unit go first, then the
    end of the label.
    """
    label, parts = task.description, _figures(task)
    figures = f": {', '.join(parts.values())}"
    if room is None or len(label + figures) <= room:
        return label + figures
    done, of, unit = task.fields["items"], task.fields["of"], task.fields["unit"]
    if of is not None:
        parts.pop("share", None)  # which the count says as well
        parts["count"] = _counted(done, of, unit if unit == "bytes" else "")
    figures = f": {', '.join(parts.values())}"
    least = max(room - len(figures), 4)
    return (label if len(label) <= least else f"{label[: least - 3].rstrip()}...") + figures


def _figures(task: Task) -> dict[str, str]:
    """What is known of a phase, in the order in which it is said."""
    done, of, unit = task.fields["items"], task.fields["of"], task.fields["unit"]
    figures = {}
    if of is not None or done:
        figures["count"] = _counted(done, of, unit)
    if task.total:
        figures["share"] = numbers.percent(min(task.completed / task.total, 1.0))
    if task.fields["note"]:
        figures["note"] = task.fields["note"]
    figures["clock"] = numbers.duration(task.elapsed or 0)
    if (left := _left(task)) > 0:
        figures["left"] = f"about {numbers.duration(left)} left"
    return figures


def _counted(done: int, of: int | None, unit: str) -> str:
    say = numbers.size if unit == "bytes" else numbers.count
    text = say(done) if of is None else f"{say(done)} of {say(of)}"
    return text if unit == "bytes" or not unit else f"{text} {unit}"


def _left(task: Task) -> float:
    """Seconds left by the rate so far; 0 when it is not known, or has proved wrong by now."""
    if task.finished or not task.time_remaining:
        return 0.0
    return task.time_remaining - (task.get_time() - float(task.fields["at"]))
