"""The command path."""

from __future__ import annotations

from typing import Any

import rich_click as click

from bonsai_quant.cli import completion
from bonsai_quant.cli.help import Command
from bonsai_quant.cli.output import common_options, open_output
from bonsai_quant.cli.types import OneOf
from bonsai_quant.cli.views import shipped as views
from bonsai_quant.sources.shipped import NAMES, PACKS, shipped_folder


@click.command(cls=Command)
@click.argument(
    "name",
    required=False,
    type=OneOf("name", (*NAMES, *PACKS)),
    shell_complete=completion.one_of(*NAMES, *PACKS),
    help="A model or pack that comes with the program. [default: list all]",
)
@common_options
def path(name: str | None, **options: Any) -> None:
    """Print where a model of the program lies.

    Wherever a model or a pack is asked for, its name alone does as well.

    \b
    bonsai-quant path
    ls "$(bonsai-quant path mini-klein)"
    """
    show = open_output(options)
    if name is not None:
        show(views.located(name, shipped_folder(name)))
        return
    show(views.listed({n: shipped_folder(n) for n in (*NAMES, *PACKS)}))
