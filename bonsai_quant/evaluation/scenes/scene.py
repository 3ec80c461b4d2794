"""The records of the benchmark: what a caption asks for, and what a picture shows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Want:
    """`count` things of one shape; None where the caption leaves the choice open."""

    shape: str
    colour: str | None = None
    size: str | None = None
    count: int = 1


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a caption says, whatever its wording.

    relation: where the first thing lies, seen from the second.  tone: of the background.
    """

    category: str
    wants: tuple[Want, ...]
    relation: str | None = None
    tone: str | None = None

    @property
    def each(self) -> list[Want]:
        """One entry for every thing that has to be in the picture, in the caption's order."""
        return [want for want in self.wants for _ in range(want.count)]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A caption and what it means."""

    text: str
    meaning: Meaning


@dataclass(frozen=True, slots=True)
class Thing:
    """A thing in a picture. size: None where it is neither small nor big.

    x, y: its centre, radius: half its width, in pixels.  angle in degrees.
    """

    shape: str
    colour: str
    size: str | None
    x: float
    y: float
    radius: float
    angle: float = 0.0


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture before it is drawn.

    shades: sRGB at both ends of the background's gradient.  slope: its direction, in degrees.
    light: where the things' highlight lies, in degrees.
    texture: standard deviation of the background's grain, in grey levels.  grain: its seed.
    """

    things: tuple[Thing, ...]
    tone: str
    shades: tuple[tuple[float, float, float], tuple[float, float, float]]
    slope: float
    light: float
    texture: float = 0.0
    grain: int = 0
