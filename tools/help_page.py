"""A hook of mkdocs: puts the help of every command into docs/reference/command-line.md."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich_click import RichContext

from bonsai_quant.cli.help import MAX_WIDTH, STYLE
from bonsai_quant.cli.main import cli
from bonsai_quant.core.version import TOOL

MARK = "<!-- the help of every command -->"
PLAIN = STYLE | {"color_system": None, "width": MAX_WIDTH}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The same page, with the help texts in the place of MARK. Called by mkdocs for every page."""
    return markdown.replace(MARK, "\n".join(sections())) if MARK in markdown else markdown


def sections() -> Iterator[str]:
    """A heading and the help of the program, then of each command, as a terminal shows them."""
    names = {"help_option_names": ["-h", "--help"], "rich_help_config": PLAIN}
    top = RichContext(cli, info_name=TOOL, **names)
    yield from _section(TOOL, top)
    for name, command in cli.commands.items():
        yield from _section(name, RichContext(command, info_name=name, parent=top, **names))


def _section(title: str, context: RichContext) -> tuple[str, ...]:
    return f"## {title}\n", "```text", context.command.get_help(context).strip(), "```\n"
