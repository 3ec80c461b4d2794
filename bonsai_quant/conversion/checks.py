"""Which doubtful values a conversion refuses."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Checks:
    """What to refuse beyond values that cannot be stored.

    zeros: a matrix of nothing but zeros.  magnitudes: one whose size no trained layer has.
    """

    zeros: bool = True
    magnitudes: bool = True
