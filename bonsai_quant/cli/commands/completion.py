"""The command completion."""

from __future__ import annotations

from typing import Any

import rich_click as click

from bonsai_quant.cli.completion import SHELLS, completion_script
from bonsai_quant.cli.help import Command
from bonsai_quant.cli.output import common_options, open_output
from bonsai_quant.cli.types import OneOf
from bonsai_quant.cli.views.answer import Answer


@click.command(cls=Command)
@click.argument("shell", type=OneOf("shell", SHELLS), help="bash, zsh or fish.")
@click.pass_context
@common_options
def completion(context: click.Context, shell: str, **options: Any) -> None:
    """Print a script that completes commands.

    With it, the Tab key completes commands, options, and the names that they take.

    \b
    # bash
    bonsai-quant completion bash > ~/.bonsai-quant-complete.bash
    echo '. ~/.bonsai-quant-complete.bash' >> ~/.bashrc
    # fish
    bonsai-quant completion fish > ~/.config/fish/completions/bonsai-quant.fish
    """
    script = completion_script(context.find_root().command, shell)
    open_output(options)(Answer(script, {"shell": shell, "script": script}))
