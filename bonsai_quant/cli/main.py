"""The command line: parse, call one function, print. Nothing is decided here."""

from __future__ import annotations

import sys
import traceback
from typing import NoReturn

import click

from bonsai_quant.core.version import TOOL, __version__

from .commands import COMMANDS
from .completion import VARIABLE
from .exit import exit_with, fill_standard_streams, report_failure, stopping_on_signals

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(context_settings=CONTEXT)
@click.version_option(__version__, prog_name=TOOL)
def cli() -> None:
    """Turn FLUX.2 Klein into 1-bit and ternary packs, and prove that they are right.

    \b
    bonsai-quant convert FOLDER --mode ternary -o packs
    bonsai-quant verify packs --against FOLDER
    """


for command in COMMANDS:
    cli.add_command(command)


def main(arguments: list[str] | None = None, *, name: str = TOOL) -> NoReturn:
    """Run the command line and exit with the documented code. name: shown in usage lines."""
    words = sys.argv[1:] if arguments is None else arguments
    fill_standard_streams()
    with stopping_on_signals():
        try:
            code = cli.main(words, prog_name=name, complete_var=VARIABLE, standalone_mode=False)
            code = code if isinstance(code, int) else 0
        except BaseException as e:  # noqa: BLE001 - here every failure becomes a code
            if "--debug" in words and not isinstance(e, SystemExit):
                traceback.print_exception(e)
            code = report_failure(e)
        exit_with(code)
