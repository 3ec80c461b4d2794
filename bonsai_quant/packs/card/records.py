"""What a card quotes: pictures that a report painted, and a score."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Evidence:
    """checks: level, subject, status, detail.  prompts, models: rows and columns of `gallery`, PNG.

    format: of the pack that painted.  decibels: of its pictures to the source's, by prompt; empty
    without a source.
    """

    made_by: str
    format: str
    checks: tuple[tuple[str, str, str, str], ...]
    models: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    decibels: tuple[float, ...] = ()
    gallery: bytes | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """Shares of pictures that show what their captions say, in percent with 95 % intervals.

    format: of the pack that painted.
    reference, kept: of the source, and what is kept of it; "" when it was not scored too.
    value, kept_value: score and kept as numbers, in percent; None for a share of nothing.
    split: of the captions.
    """

    format: str
    pictures: int
    captions: int
    size: str
    steps: int
    score: str
    reference: str
    kept: str
    value: float | None = None
    kept_value: float | None = None
    split: str = "test"
