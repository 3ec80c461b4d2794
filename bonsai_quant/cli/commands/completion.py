"""The command completion."""

from __future__ import annotations

from typing import Any

import click

from bonsai_quant.cli.completion import SHELLS, completion_script
from bonsai_quant.cli.output import common_options, open_output
from bonsai_quant.cli.views.answer import Answer


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
@common_options
def completion(context: click.Context, shell: str, **options: Any) -> None:
    """Print the script that completes commands, options and names in SHELL: bash, zsh or fish.

    \b
    bonsai-quant completion bash > ~/.bonsai-quant-complete.bash
    echo '. ~/.bonsai-quant-complete.bash' >> ~/.bashrc
    bonsai-quant completion fish > ~/.config/fish/completions/bonsai-quant.fish
    """
    script = completion_script(context.find_root().command, shell)
    open_output(options)(Answer(script, {"shell": shell, "script": script}))
