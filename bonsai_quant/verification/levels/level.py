"""What a level is: checks that run together, by one name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .check import Check
from .job import Job


@dataclass(frozen=True, slots=True)
class Level:
    """One row of the table. checks: run in this order; each gets the whole job.

    required: where one of its checks fails, no later level is run.
    """

    name: str
    checks: tuple[Callable[[Job], list[Check]], ...]
    required: bool = False
