"""What there is to see: shapes, colours, sizes, and how far apart things lie."""

from __future__ import annotations

from dataclasses import dataclass

CATEGORIES = (
    "single_object",
    "two_objects",
    "counting",
    "colors",
    "position",
    "color_attribution",
)
"""GenEval's six, in the order of its tables."""

COLOURS = {
    "red": (214, 45, 48),
    "yellow": (244, 206, 42),
    "green": (44, 158, 68),
    "blue": (36, 104, 232),
    "purple": (172, 56, 196),
    "orange": (240, 130, 32),
    "cyan": (52, 196, 208),
    "pink": (244, 140, 190),
}
"""sRGB of a thing before it is shaded."""

TONES = {"light": 222, "dark": 48}
"""The mean grey level of each background."""

USUAL = {
    "circle": "red",
    "square": "blue",
    "triangle": "green",
    "cross": "yellow",
    "ring": "purple",
    "diamond": "cyan",
    "star": "orange",
}
"""What colour a thing has when nobody says: as bananas are yellow, so that "a purple circle" has to
overcome a habit, and "a circle" does not leave open more than a picture can show at once."""

SIZES = ("small", "big")
RELATIONS = ("left", "right", "above", "below")
NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}


@dataclass(frozen=True, slots=True)
class World:
    """How rich the pictures are.

    pixels: height and width of a picture.  most: the largest number of things.
    small, big: radii of things; where nobody says, a thing is between them.
    jitter: how far from its place a thing may lie.  All in pixels.
    turn: the largest rotation, in degrees.  texture: standard deviation of grain, in grey levels.
    """

    name: str
    shapes: tuple[str, ...]
    colours: tuple[str, ...]
    most: int
    pixels: int = 64
    small: float = 8.0
    big: float = 13.0
    jitter: float = 1.5
    turn: float = 0.0
    texture: float = 0.0


SMALL = World(
    "small",
    ("circle", "square", "triangle", "cross"),
    ("red", "yellow", "green", "blue", "purple"),
    most=4,
)
"""What two cores learn to paint in about an hour and a half."""

LARGE = World(
    "large",
    ("circle", "square", "triangle", "cross", "ring", "diamond", "star"),
    tuple(COLOURS),
    most=5,
    pixels=128,
    small=14.0,
    big=22.0,
    jitter=3.0,
    turn=12.0,
    texture=3.0,
)
"""For a GPU."""

WORLDS = {w.name: w for w in (SMALL, LARGE)}
