"""One thing that was checked, and the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["passed", "failed", "not run", "measured"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was checked.

    status: `measured` where there are figures and nothing that they must reach.
    detail: the first wrong thing, or the figures.  figures: the same for programs.
    """

    level: str
    subject: str
    status: Status
    detail: str
    figures: Mapping[str, Any] = field(default_factory=dict)
