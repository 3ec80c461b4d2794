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
        return Text(sentence(task, self._console.width - 1))


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

    room: columns that there are; the label is cut for the figures.
    """
    done, of, unit = task.fields["items"], task.fields["of"], task.fields["unit"]
    parts = [_counted(done, of, unit)] if of is not None or done else []
    if task.total:
        parts.append(numbers.percent(min(task.completed / task.total, 1.0)))
    if task.fields["note"]:
        parts.append(task.fields["note"])
    parts.append(numbers.duration(task.elapsed or 0))
    if (left := _left(task)) > 0:
        parts.append(f"about {numbers.duration(left)} left")
    figures, label = f": {', '.join(parts)}", task.description
    if room is not None and len(label + figures) > room:
        label = label[: max(room - len(figures) - 3, 4)].rstrip() + "..."
    return label + figures


def _counted(done: int, of: int | None, unit: str) -> str:
    say = numbers.size if unit == "bytes" else numbers.count
    text = say(done) if of is None else f"{say(done)} of {say(of)}"
    return text if unit == "bytes" or not unit else f"{text} {unit}"


def _left(task: Task) -> float:
    """Seconds left by the rate so far; 0 when it is not known, or has proved wrong by now."""
    if task.finished or not task.time_remaining:
        return 0.0
    return task.time_remaining - (task.get_time() - float(task.fields["at"]))
