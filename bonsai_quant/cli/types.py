"""What an option takes: names, places, numbers, sizes."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import click
from click.shell_completion import CompletionItem

from bonsai_quant.core.errors import OutputExists, UsageError, nearest, unknown
from bonsai_quant.runners.generate import MAX_SIDE, MIN_SIDE
from bonsai_quant.runners.sampling import PIXELS
from bonsai_quant.sources.shipped import NAMES, PACKS

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

    def get_missing_message(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """The names, for an option that must be given."""
        return f"Give {' or '.join(self.names)}"

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


class Whole(click.ParamType[Any]):
    """A whole number. low, high: the least and the largest that is allowed."""

    name = "number"

    def __init__(self, low: int = 1, high: int | None = None) -> None:
        self.low, self.high = low, high

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number; raises UsageError that names the nearest one."""
        text = str(value).strip()
        number = int(text) if re.fullmatch(r"[+-]?[0-9]{1,20}", text) else None
        if number is not None and number >= self.low and (not self.high or number <= self.high):
            return number
        limits = f"from {self.low} to {self.high}" if self.high else f"of at least {self.low}"
        meant = self._meant(number, param)
        raise UsageError(
            f"{param.opts[-1] if param else 'this'} must be a whole number {limits}, "
            f"not {text if number is not None else repr(text[:40])}",
            hint=f"such as {meant}",
            typed=str(value),
            meant=(str(meant),),
        )

    def _meant(self, number: int | None, param: click.Parameter | None) -> int:
        """The nearest that is allowed; of what is no number, the default."""
        if number is None:
            default = getattr(param, "default", None)
            return default if isinstance(default, int) else max(self.low, 1)
        return max(self.low, min(number, self.high or number))


class PictureSize(click.ParamType[Any]):
    """WIDTHxHEIGHT in pixels, or one number for a square."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The size as it was typed; raises UsageError that names the nearest one."""
        found = re.fullmatch(r"(\d{1,5})(?:\D+(\d{1,5}))?\D?", str(value).strip())
        sides = [int(found[1]), int(found[2] or found[1])] if found else [512, 512]
        near = [min(max(round(n / PIXELS) * PIXELS, MIN_SIDE), MAX_SIDE) for n in sides]
        well_formed = re.fullmatch(r"\d{1,5}([xX]\d{1,5})?", str(value))
        if well_formed and near == sides:
            return str(value)
        raise UsageError(
            f"--size {str(value)[:40]!r} is not WIDTHxHEIGHT, each a multiple of {PIXELS} "
            f"from {MIN_SIDE} to {MAX_SIDE}",
            hint="such as 512x512",
            typed=str(value),
            meant=("x".join(map(str, near)),),
        )


class Place(click.ParamType[Any]):
    """A path, a Hub id, or one of the names of what comes with the program."""

    name = "place"

    def __init__(self, kind: str, names: Iterable[str] | Callable[[], Iterable[str]]) -> None:
        self.kind, self._names = kind, names

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The place; raises UsageError when it is nearly one of the names and nothing else."""
        names = tuple(self._names() if callable(self._names) else self._names)
        if (
            value not in (*names, *NAMES, *PACKS, "")
            and "/" not in value
            and not os.path.lexists(value)
        ):
            near = nearest(value, names)
            if near:
                raise unknown(self.kind, value, names)
        return str(value)


class Repo(click.ParamType[Any]):
    """A repo of the Hub: OWNER/NAME."""

    name = "repo"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The id; raises UsageError when the owner is missing."""
        if value and "/" not in value:
            raise UsageError(
                f"{value[:200]!r} is no repo of the Hub",
                hint="give OWNER/NAME",
                typed=value,
                meant=(f"YOUR-NAME/{value}",),
            )
        return str(value)


class OutFolder(click.ParamType[Any]):
    """A folder to write, which may be there or not."""

    name = "folder"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The path; raises OutputExists when a file is there."""
        if os.path.isfile(value):
            raise OutputExists("is a file, not a folder", where=value, hint="name a folder with -o")
        return str(value)
