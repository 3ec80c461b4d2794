"""What all commands share: the common options, how a command prints, its progress."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any, TextIO

import click

from bonsai_quant.cli.views.answer import Answer, Table
from bonsai_quant.core import numbers
from bonsai_quant.core.errors import EnvironmentFault
from bonsai_quant.core.progress import Progress, no_progress
from bonsai_quant.core.schema import SCHEMA_VERSION

Command = Callable[..., Any]
NOTICED_S = 1.0
"""How long a command takes at least that says how long it took."""


def common_options(command: Command) -> Command:
    """Add the options that every command has."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object, not text."),
        click.option("--quiet", is_flag=True, help="Print nothing but errors."),
        click.option("-v", "--verbose", is_flag=True, help="Log what is detected and chosen."),
        click.option("--debug", is_flag=True, help="Show the traceback of an error."),
    ):
        command = option(command)
    return command


class Printer:
    """Prints an answer: text for people, or one JSON object."""

    def __init__(self, as_json: bool, quiet: bool) -> None:
        self.as_json, self.quiet, self._began = as_json, quiet, monotonic()

    def __call__(self, answer: Answer, *, next_step: str = "") -> None:
        """Print one answer. next_step: the command to type now, which text ends with."""
        data = {"schema_version": SCHEMA_VERSION} | answer.data
        try:
            if self.as_json:
                click.echo(json.dumps(data, indent=2))
            elif not self.quiet:
                self._print_text([*answer.parts, *self._ending(next_step)])
        except OSError as e:
            raise EnvironmentFault(
                f"the answer could not be printed: {e.strerror}", hint="the work itself is done"
            ) from e

    def _print_text(self, parts: Sequence[str | Table]) -> None:
        if sys.stdout.isatty():
            from .terminal import rendered

            click.echo(rendered(parts))
        else:
            click.echo("\n".join(p if isinstance(p, str) else p.text for p in parts))

    def _ending(self, next_step: str) -> Iterator[str]:
        """How long it took, if anybody had to wait, and what comes next."""
        seconds = monotonic() - self._began
        if seconds >= NOTICED_S:
            yield f"took {numbers.duration(seconds)}"
        if next_step:
            yield f"next: {next_step}"


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Logs to what is stderr now: while a line moves there, messages are put above it."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def open_output(options: dict[str, Any]) -> Printer:
    """Set up the log and the printer as the common options say, which leave `options`."""
    as_json, quiet = options.pop("as_json"), options.pop("quiet")
    verbose, _ = options.pop("verbose"), options.pop("debug")
    level = logging.INFO if verbose else logging.ERROR if quiet else logging.WARNING
    handler = _StderrHandler(sys.stderr)
    logging.basicConfig(level=level, format="%(message)s", handlers=[handler], force=True)
    # diffusers imports it where it is installed, and it misses kernels that nothing here calls.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    return Printer(as_json, quiet)


@contextmanager
def shown_progress(printer: Printer) -> Iterator[Progress]:
    """Progress on stderr: a moving line on a terminal, else a plain line every few seconds.

    Nothing with --quiet, and with --json only on a terminal.
    """
    if printer.quiet or (printer.as_json and not sys.stderr.isatty()):
        yield no_progress
        return
    from .progress import Display

    display = Display(sys.stderr)
    display.start()
    display.phase("starting")
    try:
        yield display
    finally:
        display.stop()
