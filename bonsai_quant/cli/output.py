"""What all commands share: the common options, how a command prints, its progress bar."""

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
from bonsai_quant.core.schema import SCHEMA_VERSION, Progress, no_progress

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
def progress_bar(label: str, printer: Printer, unit: str = "B") -> Iterator[Progress]:
    """A progress bar on stderr, shown on a terminal only. unit: what is counted, bytes or other."""
    if printer.quiet or printer.as_json or not sys.stderr.isatty():
        yield no_progress
        return
    from tqdm import tqdm

    with tqdm(desc=label, unit=unit, unit_scale=unit == "B", leave=False) as bar:
        n_done = 0

        def progress(n: int, n_tensors: int, total: int) -> None:
            nonlocal n_done
            n_done += n_tensors
            bar.total = total
            bar.update(n)
            if n_done:
                bar.set_postfix_str(f"{n_done} tensors", refresh=False)

        yield progress
