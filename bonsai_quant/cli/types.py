"""What an option takes: one of some names, or a number of bytes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import click
from click.shell_completion import CompletionItem

from bonsai_quant.core.errors import UsageError, unknown

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12,
         "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}  # fmt: skip
"""Bytes in a unit, without its B."""
SIZE = re.compile(r"(?P<number>\d{1,18}(\.\d{1,9})?) ?(?P<unit>[kmgt]?i?)b?", re.I)


class OneOf(click.ParamType[Any]):
    """One of some names, in upper or lower case. listed: or several, separated by commas."""

    def __init__(self, kind: str, names: Iterable[str], *, listed: bool = False) -> None:
        self.name, self.names, self.listed = kind, tuple(names), listed

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """The kind of name; `choices` has the names."""
        return self.name.upper()

    @property
    def choices(self) -> str:
        """The names, as help shows them."""
        return f"[{' | '.join(self.names)}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The names as they are spelled; raises UsageError that names the nearest one."""
        if not self.listed:
            return self._spelled(str(value))
        words = (word.strip() for word in str(value).split(","))
        return ",".join(self._spelled(word) for word in words if word)

    def _spelled(self, word: str) -> str:
        if word.lower() not in self.names:
            raise unknown(self.name, word, self.names)
        return word.lower()

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """The names that begin so, after the last comma."""
        before, comma, typed = incomplete.rpartition(",") if self.listed else ("", "", incomplete)
        return list(self._offered(before + comma, typed.lower()))

    def _offered(self, before: str, typed: str) -> Iterator[CompletionItem]:
        for name in self.names:
            if name.startswith(typed):
                yield CompletionItem(before + name)


class ByteSize(click.ParamType[Any]):
    """A number of bytes: 6000000000, 6GB, 5.5GiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Bytes; raises UsageError."""
        if isinstance(value, int):
            return value
        found = SIZE.fullmatch(value.strip())
        if not found or found["unit"].lower() not in UNITS:
            number = re.match(r"\d+", value.strip())
            raise UsageError(
                f"{value[:40]!r} is no number of bytes",
                where=param.opts[-1] if param else "",
                hint="give bytes or a unit, such as 6GB or 5.5GiB",
                typed=value,
                meant=(f"{number[0]}GB",) if number else (),
            )
        return int(float(found["number"]) * UNITS[found["unit"].lower()])
