"""The result of one kernel on one layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["passed", "failed", "not run"]


@dataclass(frozen=True)
class KernelCheck:
    """One layer through one backend.

    Every output element has its own limit, so `max_error` and `tolerance` are those of the element
    nearest to its limit, or furthest past it: passed means max_error <= tolerance.
    """

    backend: str
    version: str | None
    layer: str
    status: Status
    max_error: float | None
    tolerance: float | None
    reason: str

    @property
    def passed(self) -> bool:
        """Ran, and stayed within its own rounding."""
        return self.status == "passed"
