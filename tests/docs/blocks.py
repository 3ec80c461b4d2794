"""The fenced blocks of a page, and the command lines in them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import bonsai_quant

ROOT = Path(bonsai_quant.__file__).parents[1]
FENCE = re.compile(
    r"(?:<!-- not run: (?P<reason>[^>]+) -->\n)?"
    r"^```(?P<language>\w*)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^```$",
    flags=re.M | re.S,
)


@dataclass(frozen=True)
class Block:
    """text: without its fences.  title: the file that it is, if any.  reason: why it is not run."""

    language: str
    text: str
    title: str | None
    reason: str | None

    @property
    def commands(self) -> list[list[str]]:
        """Its command lines, with words as a shell takes them apart."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def pages() -> list[str]:
    """README and every page of the site, by their paths in the project."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [path.relative_to(ROOT).as_posix() for path in found]


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    return [
        Block(m["language"], m["text"], m["title"], m["reason"])
        for m in FENCE.finditer((ROOT / page).read_text())
    ]
