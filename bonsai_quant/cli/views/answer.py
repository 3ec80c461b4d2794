"""An answer of a command: text for people, and data for --json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MARKS = {"passed": "ok", "failed": "FAILED", "not run": "not run", "measured": "measured"}


@dataclass(frozen=True, slots=True)
class Answer:
    """text: for people.  data: for `--json`."""

    text: str
    data: dict[str, Any]
