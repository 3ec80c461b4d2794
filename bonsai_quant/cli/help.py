"""How `--help` looks: commands and options in groups, and examples that can be copied."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Iterable
from itertools import pairwise, takewhile
from typing import Any

import click
import rich_click
from rich_click import RichContext, RichHelpFormatter
from rich_click.rich_panel import RichCommandPanel, RichOptionPanel

from bonsai_quant.core.errors import UsageError

from .types import OneOf

COMMON = ("as_json", "quiet", "verbose", "debug", "help")
"""The options that every command has."""
BEFORE = ("--json", "--quiet", "--verbose", "-v", "--debug")
"""Those of them that may stand before the command."""
MAX_WIDTH = 100
"""Columns: longer lines are hard to read."""

STYLE = {
    "theme": "default-slim",
    "enable_theme_env_var": False,
    "text_markup": None,  # brackets in help texts are brackets
    "show_arguments": True,
    "commands_before_options": True,
    "options_panel_title": "Other options",  # not that of a group, which would get them all
    "max_width": MAX_WIDTH,
    # Colors that can be read on white and on black, without yellow, black, white or grey.
    "style_option": "bold cyan",
    "style_argument": "bold cyan",
    "style_command": "bold cyan",
    "style_switch": "bold cyan",
    "style_metavar": "magenta",
    "style_metavar_append": "magenta",
    "style_usage": "bold",
    "style_helptext": "",
    "style_options_panel_border": "",
    "style_commands_panel_border": "",
    "style_options_panel_title_style": "bold",
    "style_commands_panel_title_style": "bold",
    "style_required_long": "bold",
    "style_required_short": "bold",
    "style_option_default": "",
    "append_metavars_help_string": "{}",
    "default_string": "\\[default: {}]",
    "options_table_help_sections": ["help", "required", "default"],
}


class Command(rich_click.RichCommand):
    """A command whose docstring ends with examples, after a line with a backslash and a b.

    first: names of the options that most runs need, in the order in which help shows them.
    needs: names of options of which one must be given.
    goes_on: whether the same command, typed again, goes on where an interrupted run stopped.
    resumes_with: the option without which there is nothing that --resume could continue.
    """

    def __init__(
        self,
        *args: Any,
        first: str = "",
        needs: str = "",
        goes_on: bool = False,
        resumes_with: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        text, _, examples = inspect.cleandoc(self.help or "").partition("\n\n\b\n")
        self.description = text
        self.examples = tuple(examples.splitlines())
        self.goes_on, self.resumes_with = goes_on, resumes_with
        self.needs = needs.split()
        self.panels = list(_panels(self.params, first.split()))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse a choice that is made twice, and none where one of some options is needed."""
        given = self.make_parser(ctx).parse_args(list(args))[2]
        rest = super().parse_args(ctx, args)
        for p in self.params:
            single = isinstance(p, click.Option) and not p.multiple and isinstance(p.type, OneOf)
            if single and given.count(p) > 1 and not ctx.resilient_parsing:
                spelled = max(p.opts, key=len)
                raise UsageError(f"{spelled} is given twice", hint=f"give {spelled} once")
        if self.needs and not ctx.resilient_parsing and not any(ctx.params[n] for n in self.needs):
            param = next(p for p in self.params if p.name == self.needs[0])
            raise click.MissingParameter(ctx=ctx, param=param)
        return rest

    @property
    def resumes(self) -> bool:
        """Whether --resume continues an interrupted run."""
        return any("--resume" in p.opts for p in self.params)

    def example(self) -> list[str]:
        """The words of the first example, without the program's and the command's name."""
        line = next(line for line in self.examples if not line.startswith("#"))
        words = shlex.split(line)[2:]
        return words[: words.index(">")] if ">" in words else words

    def example_value(self, param: click.Parameter) -> str | None:
        """What the examples give to an option, or else its first choice."""
        for line in self.examples:
            words = shlex.split(line, comments=True)
            for word, value in pairwise(words):
                if word in param.opts:
                    return value
        return param.type.names[0] if isinstance(param.type, OneOf) else None

    def example_arguments(self) -> list[str]:
        """The words of the first example that stand before its options."""
        return list(takewhile(lambda word: not word.startswith("-"), self.example()))

    def format_help_text(self, ctx: RichContext, formatter: RichHelpFormatter) -> None:  # type: ignore[override]
        """What the command does: the docstring without its examples."""
        for paragraph in self.description.split("\n\n"):
            formatter.write(" ".join(paragraph.split()) + "\n", markup=False, highlight=False)

    def get_help(self, ctx: click.Context) -> str:
        """The text without the spaces that rich puts at the ends of lines."""
        return without_trailing_spaces(super().get_help(ctx))

    def format_epilog(self, ctx: RichContext, formatter: RichHelpFormatter) -> None:  # type: ignore[override]
        """The examples, at the end, where the eye is when a screen has been printed."""
        write_examples(self.examples, formatter)


class Program(rich_click.RichGroup):
    """The commands in groups; the common options may also stand before the command."""

    context_class = RichContext

    def __init__(self, *args: Any, examples: Iterable[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)
        self.panels.append(RichOptionPanel("Options", ["version", "help"]))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """The common options may stand before the command: they are moved behind it."""
        at = next((i for i, word in enumerate(args) if word not in BEFORE), len(args))
        if 0 < at < len(args) and args[at] in self.commands:
            args = [args[at], *args[:at], *args[at + 1 :]]
        return super().parse_args(ctx, args)

    def add_group(self, title: str, commands: Iterable[click.Command]) -> None:
        """Add commands that help shows together, under a title."""
        names = []
        for command in commands:
            self.add_command(command)
            names.append(str(command.name))
        self.panels.insert(-1, RichCommandPanel(title, names))

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of a first session."""
        return list(self.commands)

    def get_help(self, ctx: click.Context) -> str:
        """The text without the spaces that rich puts at the ends of lines."""
        return without_trailing_spaces(super().get_help(ctx))

    def format_epilog(self, ctx: RichContext, formatter: RichHelpFormatter) -> None:  # type: ignore[override]
        """The examples, then what holds for every command."""
        write_examples(self.examples, formatter)
        formatter.write(
            "Every command takes --json, --quiet, --verbose and --debug, and explains itself:\n"
            f"{ctx.command_path} convert --help"
        )


def _panels(params: list[click.Parameter], first: list[str]) -> Iterable[RichOptionPanel]:
    """Arguments, the options of most runs, the others, and those that every command has."""
    arguments = [str(p.name) for p in params if isinstance(p, click.Argument)]
    more = [str(p.name) for p in params if p.name not in (*arguments, *first, *COMMON)]
    columns: list[Any] = ["opt_long", "help"]
    if arguments:
        yield RichOptionPanel("Arguments", arguments, column_types=columns)
    if first:
        yield RichOptionPanel("Options", first)
    if more:
        yield RichOptionPanel("More options" if first else "Options", more)
    yield RichOptionPanel("Options of every command", list(COMMON))


def without_trailing_spaces(text: str) -> str:
    """The same text, easier to copy."""
    return "\n".join(line.rstrip() for line in text.splitlines())


def write_examples(lines: Iterable[str], formatter: RichHelpFormatter) -> None:
    """Command lines, broken as a shell reads them; comments above what they explain."""
    from rich.text import Text

    text = Text()
    for line in lines:
        style = "italic" if line.startswith("#") else ""
        text.append(f"\n  {broken(line, formatter.width - 2)}", style=style)
    if text:
        formatter.write(Text("Examples:", style="bold") + text + "\n")


def broken(line: str, width: int) -> str:
    """A command in several lines of at most `width` columns, each but the last ending with \\."""
    if len(line) <= width:
        return line
    lines = [""]
    for part in re.findall(r"""-\S+ (?:"[^"]*"|[^-\s]\S*)|"[^"]*"|\S+""", line):
        if lines[-1] and len(lines[-1]) + len(part) + 3 > width:
            lines[-1] += " \\"
            lines.append("   ")
        lines[-1] += f" {part}" if lines[-1] else part
    return "\n  ".join(lines)
