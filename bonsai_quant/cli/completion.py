"""What the shell offers while a command is typed: the names that an argument or option takes."""

from __future__ import annotations

from collections.abc import Callable

import click
from click.shell_completion import CompletionItem, get_completion_class

from bonsai_quant.conversion.settings import shipped_recipes
from bonsai_quant.core.version import TOOL
from bonsai_quant.sources.shipped import NAMES, PACKS

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_BONSAI_QUANT_COMPLETE"
"""When this is set, the program answers the shell instead of running a command."""

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def completion_script(program: click.Command, shell: str) -> str:
    """The shell code that asks this program what may come next."""
    complete = get_completion_class(shell)
    assert complete is not None, shell
    return complete(program, {}, TOOL, VARIABLE).source()


def one_of(*names: str) -> Complete:
    """Offer these names."""

    def complete(_: click.Context, __: click.Parameter, typed: str) -> list[CompletionItem]:
        return [CompletionItem(name) for name in names if name.startswith(typed)]

    return complete


def one_of_or_file(*names: str) -> Complete:
    """Offer these names, and files."""
    offer_names = one_of(*names)

    def complete(c: click.Context, p: click.Parameter, typed: str) -> list[CompletionItem]:
        # Files come first: click's script for bash forgets the names that stand before them.
        return [CompletionItem(typed, type="file"), *offer_names(c, p, typed)]

    return complete


def _recipe(c: click.Context, p: click.Parameter, typed: str) -> list[CompletionItem]:
    return one_of_or_file(*shipped_recipes())(c, p, typed)


file = one_of_or_file()
model = one_of_or_file(*NAMES)
pack = one_of_or_file(*PACKS)
model_or_pack = one_of_or_file(*NAMES, *PACKS)
recipe: Complete = _recipe
