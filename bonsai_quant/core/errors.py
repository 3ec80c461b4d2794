"""How a run can fail: one class for each exit code; a message says what, where and what next."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any


def printable(text: object) -> str:
    """Escape control and format characters, so that a hostile name cannot forge output."""
    return "".join(
        c if unicodedata.category(c)[0] != "C" else c.encode("unicode_escape").decode()
        for c in str(text)
    )


def first_problem(e: Any) -> str:
    """'key: message' of the first problem in a pydantic ValidationError."""
    problem = e.errors()[0]
    key = ".".join(str(p) for p in problem["loc"])
    return f"{key}: {problem['msg'].removeprefix('Value error, ')}"


class BonsaiError(Exception):
    """Base of every expected failure.

    what: what happened, with the numbers found and allowed.
    where: file and tensor, outermost first.
    hint: what to type or change next.
    meant: words that stand in the place of `typed` in a command that works, or that are added to
    it when `typed` is empty.
    """

    exit_code = 1
    kind = "bug"

    def __init__(
        self,
        what: str,
        *,
        where: str | tuple[object, ...] = (),
        hint: str = "",
        typed: str = "",
        meant: Sequence[str] = (),
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = (where,) if isinstance(where, str) else tuple(where)
        self.hint = hint
        self.typed, self.meant = typed, tuple(meant)

    def __str__(self) -> str:
        place = "".join(f"{printable(w)}: " for w in self.where if str(w))
        tail = f" -> {printable(self.hint)}" if self.hint else ""
        return f"{place}{printable(self.what)}{tail}"


class UsageError(BonsaiError):
    """The command line or a recipe asks for something that does not exist or contradicts itself."""

    exit_code, kind = 2, "usage"


class BadInput(BonsaiError):
    """A file or a value in it is broken."""

    exit_code, kind = 3, "input"


class Unsupported(BonsaiError):
    """Well formed, but not something this version handles."""

    exit_code, kind = 4, "unsupported"


class VerificationFailed(BonsaiError):
    """A pack is not what it says it is."""

    exit_code, kind = 5, "verify"


class EnvironmentFault(BonsaiError):
    """Disk, memory, permission, or a missing runner."""

    exit_code, kind = 6, "environment"


class OutputExists(BonsaiError):
    """The output is there already, or another process is writing it."""

    exit_code, kind = 7, "exists"


class HubDenied(BonsaiError):
    """The Hub does not allow it: token missing, expired, or without the right."""

    exit_code, kind = 8, "hub-denied"


class HubConflict(BonsaiError):
    """Not found on the Hub, or in conflict with what is there."""

    exit_code, kind = 9, "hub-conflict"


class HubUnavailable(BonsaiError):
    """The Hub did not answer after the retries."""

    exit_code, kind = 10, "hub-unavailable"


class HubMismatch(BonsaiError):
    """What the Hub delivered is not what it announced."""

    exit_code, kind = 11, "hub-mismatch"


LONG = 160
"""Characters of what was typed that an error repeats."""
FEW = 7
"""So many names are listed beside the nearest one."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The one of the known words that was probably meant."""
    known, typed = list(known), word[:80].lower()
    spelled = {k.lower(): k for k in known}
    begun = [k for k in spelled if typed and k.startswith(typed)]
    near = begun if len(begun) == 1 else difflib.get_close_matches(typed, spelled, 1)
    return spelled[near[0]] if near else None


def suggest(word: str, known: Iterable[str]) -> str:
    """'; did you mean X?' or the list of what there is."""
    known = list(known)
    near = nearest(str(word), known)
    return f"; did you mean {near!r}?" if near else f"; there are {', '.join(known)}"


def _shortened(word: str) -> str:
    """Of a long path the end says which file it is."""
    return word if len(word) <= LONG else f"{word[: LONG // 2]}...{word[-LONG // 2 :]}"


def unknown(kind: str, word: str, known: Iterable[str], *, hint: str = "") -> UsageError:
    """The error for a word that does not exist: the nearest one that does, and all of them."""
    known = list(known)
    near = nearest(word, known)
    choices = f" There are {', '.join(known)}" if 1 < len(known) < FEW else ""
    guess = f"; did you mean {near!r}?{choices}" if near else ""
    return UsageError(
        f"unknown {kind} {_shortened(word)!r}{guess}",
        hint=hint or f"choose {' or '.join(known)}",
        typed=word if near else "",
        meant=(near,) if near else (),
    )
