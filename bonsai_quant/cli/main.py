"""The command line: parse, call one function, print. Nothing is decided here."""

from __future__ import annotations

import sys
import traceback
from typing import NoReturn

import rich_click as click

from bonsai_quant.core.version import TOOL, __version__

from .commands import GROUPS
from .completion import VARIABLE
from .exit import exit_with, fill_standard_streams, report_failure, stopping_on_signals
from .failure import Typed
from .help import STYLE, Program

SETTINGS = {"help_option_names": ["-h", "--help"], "rich_help_config": STYLE}


@click.group(
    cls=Program,
    context_settings=SETTINGS,
    invoke_without_command=True,
    subcommand_metavar="COMMAND [ARGS]...",
    examples=(
        "# a picture, with a pack that comes with the program",
        'bonsai-quant generate mini-klein-ternary -p "a red circle left of a blue square" '
        "-o circle.png",
        "# make such a pack, and prove it",
        "bonsai-quant convert mini-klein --mode ternary -o packs",
        "bonsai-quant verify packs --against mini-klein",
    ),
)
@click.version_option(__version__, prog_name=TOOL)
@click.pass_context
def cli(context: click.Context) -> None:
    """Turn FLUX.2 Klein into 1-bit and ternary packs, and prove that they are right."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


for title, commands in GROUPS.items():
    cli.add_group(title, commands)


def main(arguments: list[str] | None = None, *, name: str = TOOL) -> NoReturn:
    """Run the command line and exit with the documented code. name: shown in usage lines."""
    words = sys.argv[1:] if arguments is None else arguments
    typed = Typed(cli, name, tuple(words))
    fill_standard_streams()
    with stopping_on_signals(typed):
        try:
            code = cli.main(words, prog_name=name, complete_var=VARIABLE, standalone_mode=False)
            code = code if isinstance(code, int) else 0
        except BaseException as e:  # noqa: BLE001 - here every failure becomes a code
            if typed.has("--debug") and not isinstance(e, SystemExit):
                traceback.print_exception(e)
            code = report_failure(e, typed)
        exit_with(code)
