"""Model cards: the README.md of a pack, from its manifest and from what was measured."""

from .records import Evidence, Score
from .render import render_card

__all__ = ["Evidence", "Score", "render_card"]
