"""What models are called on a page: short, and each by a name of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def short_names(places: Sequence[str]) -> list[str]:
    """The last part of each path or id; with the part before it where several end alike."""
    parts = [_parts(p) for p in places]
    longest = max((len(p) for p in parts), default=1)
    for n in range(1, longest + 1):
        names = ["/".join(p[-n:]) for p in parts]
        if len(set(names)) == len({tuple(p) for p in parts}):
            break
    return names if places else []


def _parts(place: str) -> list[str]:
    path = Path(place)
    named = [p for p in path.parts if p not in ("/", ".", "..")]
    if not named or path.parts[-1] == "..":
        named = [p for p in path.resolve().parts if p != "/"]
    return named or [place]
