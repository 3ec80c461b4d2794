"""The command that was meant by one that cannot be parsed, for the end of an error's line."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence

import click

from bonsai_quant.core.errors import BonsaiError, nearest

from .help import Command
from .types import OneOf

ROUNDS = 6
"""How many mistakes of one command are mended."""
LONGEST = 400
"""Characters of a command that is shown."""

Words = list[str]


def mended(program: click.Group, typed: Sequence[str], e: BaseException) -> Words | None:
    """The words of a command that can be parsed, without the fault `e`; None if it is not clear.

    What else is wrong with them is mended, too, so that nobody has to ask twice.
    """
    words: Words | None = list(typed)
    fault: BaseException | None = e
    for _ in range(ROUNDS):
        if fault is None:
            return words
        words = _without(program, words or [], fault)
        if words is None:
            return None
        fault = first_fault(program, words)
    return None


def shown(name: str, words: Sequence[str]) -> str | None:
    """The command as it is typed; None when it is too long, or may hold a secret."""
    text = f"{name} {shlex.join(words)}"
    secret = any(re.search(r"\bhf_\w", word) for word in words)
    return None if secret or len(text) > LONGEST or not text.isprintable() else text


def first_fault(program: click.Group, words: Words) -> Exception | None:
    """What the parser says against a command, without running it."""
    name, rest = command_of(words)
    if name is None:
        return None
    if name not in program.commands:
        return click.exceptions.NoSuchCommand(name, possibilities=program.commands)
    asked = [w for w in rest if w not in ("-h", "--help")]
    try:
        with program.commands[name].make_context(name, asked):
            return None
    except (click.ClickException, BonsaiError) as e:
        return e


def command_of(words: Sequence[str]) -> tuple[str | None, Words]:
    """The first word that is no option, and all the others."""
    at = next((i for i, w in enumerate(words) if not w.startswith("-")), None)
    if at is None:
        return None, list(words)
    return words[at], [*words[:at], *words[at + 1 :]]


def _without(program: click.Group, words: Words, e: BaseException) -> Words | None:
    """The same words with one mistake mended."""
    if isinstance(e, click.exceptions.NoSuchCommand):
        near = nearest(e.command_name, program.commands)
        return _replaced(program, words, e.command_name, [near]) if near else None
    if isinstance(e, BonsaiError):
        return _replaced(program, words, e.typed, e.meant) if e.meant else None
    name, rest = command_of(words)
    command = program.commands.get(name or "")
    if not isinstance(command, Command):
        return _after_command(program, words)
    for kind, mend in MENDERS.items():
        if isinstance(e, kind):
            changed = mend(command, rest, e)
            return [str(name), *changed] if changed else None
    return None


def _after_command(program: click.Group, words: Words) -> Words | None:
    """Options that stand before the command, where only the common ones may, put behind it."""
    at = next((i for i, w in enumerate(words) if w in program.commands), 0)
    return [words[at], *words[at + 1 :], *words[:at]] if at else None


def _replaced(program: click.Group, words: Words, typed: str, meant: Sequence[str]) -> Words | None:
    """`meant` in the place of `typed`, which may follow `--option=` or stand between commas."""
    command = program.commands.get(words[0])
    if not typed and len(words) == 1 and isinstance(command, Command):
        return [*words, *command.example()]
    if not typed:
        return [*words, *meant]
    for i, word in enumerate(words):
        if word == typed:
            return [*words[:i], *meant, *words[i + 1 :]]
    for i, word in enumerate(words):
        before, equals, value = word.rpartition("=")
        parts = [p.strip() for p in value.split(",")]
        if typed in parts and len(meant) == 1:
            parts[parts.index(typed)] = meant[0]
            return [*words[:i], before + equals + ",".join(parts), *words[i + 1 :]]
    return None


def _option(command: Command, words: Words, e: click.NoSuchOption) -> Words | None:
    """An option that is misspelt."""
    known = [o[2:] for p in command.params for o in p.opts if o.startswith("--")] + ["help"]
    near = nearest(e.option_name[2:], known) if e.option_name.startswith("--") else None
    at = next((i for i, w in enumerate(words) if w.partition("=")[0] == e.option_name), None)
    if near is None or at is None:
        return None
    words[at] = f"--{near}{words[at].removeprefix(e.option_name)}"
    return words


def _missing(command: Command, words: Words, e: click.MissingParameter) -> Words | None:
    """An argument or option that is needed: as the command's own example has it."""
    param = e.param
    if isinstance(param, click.Argument):
        before = [p for p in command.params if isinstance(p, click.Argument)].index(param)
        example = command.example_arguments()
        new = [a for a in example[before:] if a not in words] or [
            a for a in example if a not in words
        ]
        return _inserted(words, new)
    value = command.example_value(param) if param else None
    return [*words, max(param.opts, key=len), value] if param and value else None


def _inserted(words: Words, arguments: Sequence[str]) -> Words | None:
    """Arguments before the first option of which a value may follow."""
    at = next((i for i, w in enumerate(words) if w.startswith("-")), len(words))
    return [*words[:at], *arguments, *words[at:]] if arguments else None


def _value(command: Command, words: Words, e: click.BadOptionUsage) -> Words | None:
    """An option without the value that belongs to it."""
    param = next((p for p in command.params if e.option_name in p.opts), None)
    value = command.example_value(param) if param else None
    at = next((i for i, w in enumerate(words) if w == e.option_name), None)
    return [*words[: at + 1], value, *words[at + 1 :]] if value and at is not None else None


def _number(command: Command, words: Words, e: click.BadParameter) -> Words | None:
    """A learning rate that is no number."""
    found = re.match(r"'(.*)' is not a valid float", e.message)
    at = next((i for i, w in enumerate(words) if found and w == found[1]), None)
    return None if at is None else [*words[:at], "0.0001", *words[at + 1 :]]


def _extra(command: Command, words: Words, e: click.UsageError) -> Words | None:
    """Words that belong to no option: a choice, a prompt, or an output without its option."""
    if "--" in words:
        words.remove("--")
        return words
    found = re.match(r"Got unexpected extra arguments? \((.*)\)", e.message)
    extra = found[1].split(" ")[0] if found else ""
    whole = found[1] if found else ""
    at = next((i for i, w in enumerate(words) if w and w in (whole, extra)), None)
    if at is None:
        return None
    if not any(isinstance(p, click.Argument) for p in command.params):
        return words[:at] + words[at + 1 :]
    option = _option_for(command, words, words[at])
    return [*words[:at], option, *words[at:]] if option else None


def _option_for(command: Command, words: Words, word: str) -> str | None:
    """The option that takes this word: by its choices, or the first that is not given."""
    free = [p for p in command.params if isinstance(p, click.Option)
            and not {*p.opts} & {w.partition("=")[0] for w in words}]  # fmt: skip
    for p in free:
        if isinstance(p.type, OneOf) and word.lower() in p.type.names:
            return max(p.opts, key=len)
    for opt in ("--prompt", "--out"):
        for p in free:
            if opt in p.opts:
                return opt
    return None


MENDERS: dict[type[click.ClickException], Callable[..., Words | None]] = {
    click.NoSuchOption: _option,
    click.MissingParameter: _missing,
    click.BadOptionUsage: _value,
    click.BadParameter: _number,
    click.UsageError: _extra,
}
"""In order: a class stands before its base."""
