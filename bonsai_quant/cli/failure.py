"""What a failure is told as: one line on stderr, and with `--json` an object on stdout."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from typing import TextIO

import click

from bonsai_quant.core.errors import BonsaiError, EnvironmentFault, printable
from bonsai_quant.core.schema import SCHEMA_VERSION

from .help import Command
from .mending import command_of, mended, shown

INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Failure:
    """code: the exit code.  kind: of error, a word.  where: file and tensor.  hint: what next."""

    code: int
    kind: str
    message: str
    where: tuple[str, ...] = ()
    hint: str = ""

    def __str__(self) -> str:
        place = "".join(f"{printable(w)}: " for w in self.where)
        if self.kind == INTERRUPTED:
            return f"{printable(self.message)}{f'; {printable(self.hint)}' if self.hint else ''}"
        tail = f" -> {printable(self.hint)}" if self.hint else ""
        return f"error[{self.kind}]: {place}{printable(self.message)}{tail}"

    def as_json(self) -> str:
        """One object, as `--json` prints it."""
        error = {"code": self.code, "kind": self.kind, "message": self.message,
                 "where": list(self.where), "hint": self.hint}  # fmt: skip
        return json.dumps({"schema_version": SCHEMA_VERSION, "error": error}, indent=2)


@dataclass(frozen=True, slots=True)
class Typed:
    """A command as it was typed. name: of the program.  words: what follows it."""

    program: click.Group
    name: str
    words: tuple[str, ...]

    def has(self, *options: str) -> bool:
        """Whether one of the options stands there, be it where the parser does not see it."""
        end = self.words.index("--") if "--" in self.words else None
        return any(o in self.words[:end] for o in options)

    def failure(self, e: BaseException) -> Failure:
        """What to say about an error, and the command that was meant."""
        hint = ""
        if isinstance(e, click.ClickException | BonsaiError):
            right = mended(self.program, self.words, e)
            hint = (right and shown(self.name, right)) or ""
        if isinstance(e, click.ClickException):
            known = isinstance(e, click.NoSuchOption | click.exceptions.NoSuchCommand)
            message = (e.message if hint and known else e.format_message()).rstrip(".")
            return Failure(2, "usage", message, (), hint or f"see {self._help()}")
        if isinstance(e, MemoryError):
            e = EnvironmentFault("not enough memory", hint="use fewer --threads")
        if isinstance(e, OSError):
            e = EnvironmentFault(e.strerror or str(e), where=str(e.filename or ""))
        if isinstance(e, BonsaiError):
            where = tuple(str(w) for w in e.where if str(w))
            return Failure(e.exit_code, e.kind, e.what, where, hint or e.hint)
        told = f"{type(e).__name__}: {e}"
        return Failure(1, "bug", told, (), "run again with --debug and report")

    def interrupted(self, code: int, reached: str = "") -> Failure:
        """What to say after Ctrl-C: the command that goes on, where there is one.

        reached: how far a run came that wrote its state.
        """
        return Failure(code, INTERRUPTED, reached or INTERRUPTED, (), self._continuation())

    def _continuation(self) -> str:
        command = self._command()
        if not isinstance(command, Command) or self.has("-n", "--dry-run"):
            return ""
        if command.resumes and int(os.environ.get("WORLD_SIZE", 1)) > 1:
            return "continue with the same torchrun command and --resume"
        option = next((p for p in command.params if p.name == command.resumes_with), None)
        if option is not None and not self.has(*option.opts):
            return f"with {option.opts[0]} {option.metavar}, a run can be continued"
        words = list(self.words)
        if command.resumes and not self.has("--resume"):
            words.insert(words.index("--") if "--" in words else len(words), "--resume")
        line = shown(self.name, words) if command.resumes or command.goes_on else None
        return f"continue with: {line}" if line else ""

    def _command(self) -> click.Command | None:
        return self.program.commands.get(command_of(self.words)[0] or "")

    def _help(self) -> str:
        command = self._command()
        return f"{self.name}{f' {command.name}' if command else ''} --help"


def print_failure(failure: Failure, typed: Typed) -> None:
    """One line on stderr, and with --json an object on stdout."""
    print_line(str(failure), sys.stderr)
    if typed.has("--json"):
        print_line(failure.as_json(), sys.stdout)


def print_line(line: str, stream: TextIO) -> None:
    """A line on a stream, if it can be written to: the exit code still says what happened."""
    try:
        print(line, file=stream, flush=True)
    except OSError:
        pass  # full or closed
    except RuntimeError:
        pass  # a signal came while a line was being printed, and would print into it
