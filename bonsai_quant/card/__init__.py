"""Model cards: the README.md of a pack, from its manifest and from what was measured."""

from .evidence import Evidence, Score, read_evidence, read_score
from .render import render_card

__all__ = ["Evidence", "Score", "read_evidence", "read_score", "render_card"]
