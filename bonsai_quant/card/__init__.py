"""Model cards: the README.md of a pack, from its manifest and from what was measured."""

from .evidence import Evidence, read_evidence
from .render import render_card

__all__ = ["Evidence", "read_evidence", "render_card"]
