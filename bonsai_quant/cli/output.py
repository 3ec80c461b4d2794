"""What all commands share: the common options, how a command prints, its progress."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from bonsai_quant.cli.views.answer import Answer
from bonsai_quant.core.errors import EnvironmentFault
from bonsai_quant.core.progress import Progress, no_progress
from bonsai_quant.core.schema import SCHEMA_VERSION

Command = Callable[..., Any]


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
        self.as_json, self.quiet = as_json, quiet

    def __call__(self, answer: Answer) -> None:
        """Print one answer."""
        data = {"schema_version": SCHEMA_VERSION} | answer.data
        try:
            if self.as_json or not self.quiet:
                click.echo(json.dumps(data, indent=2) if self.as_json else answer.text)
        except OSError as e:
            raise EnvironmentFault(
                f"the answer could not be printed: {e.strerror}", hint="the work itself is done"
            ) from e


def open_output(options: dict[str, Any]) -> Printer:
    """Set up the log and the printer as the common options say, which leave `options`."""
    as_json, quiet = options.pop("as_json"), options.pop("quiet")
    verbose, _ = options.pop("verbose"), options.pop("debug")
    level = logging.INFO if verbose else logging.ERROR if quiet else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr, force=True)
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
    try:
        yield display
    finally:
        display.stop()
