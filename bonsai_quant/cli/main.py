"""The command line: parse, call one function, print. Nothing is decided here."""

from __future__ import annotations

import sys
import traceback
from typing import NoReturn

import click

from bonsai_quant.cli.commands import COMMANDS
from bonsai_quant.core.version import TOOL, __version__

from . import exit as ending

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(context_settings=CONTEXT)
@click.version_option(__version__, prog_name=TOOL)
def cli() -> None:
    """FLUX.2 Klein to 1-bit and ternary packs, proved right.

    \b
    bonsai-quant convert FOLDER --mode ternary -o packs
    bonsai-quant verify packs --against FOLDER
    """


for command in COMMANDS:
    cli.add_command(command)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with the documented code."""
    given = sys.argv[1:] if arguments is None else arguments
    ending.fill_standard_streams()
    with ending.stopping_on_signals():
        try:
            code = cli.main(given, prog_name=TOOL, standalone_mode=False)
            code = code if isinstance(code, int) else 0
        except BaseException as e:  # noqa: BLE001 - here every failure becomes a code
            if "--debug" in given and not isinstance(e, SystemExit):
                traceback.print_exception(e)
            code = ending.explain(e)
        ending.leave(code)
