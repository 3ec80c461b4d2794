"""Pictures side by side with their captions, as one PNG."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bonsai_quant.core.errors import EnvironmentFault, OutputExists
from bonsai_quant.storage import fs

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

PNG = b"\x89PNG\r\n\x1a\n"
SIDE, GAP, MARGIN = 128, 6, 10
"""Pixels: of a picture as shown, between two, around everything."""
LETTERS, SPACING = 14, 4
"""Pixels: of letters, between two lines. Pillow's font hides the spaces where letters are small."""
CAPTION = 210
"""Pixels for captions, left of the pictures."""
PAPER, INK = (255, 255, 255), (30, 30, 30)
GREEN, RED = (24, 140, 60), (205, 30, 45)
MARK = 14
"""Pixels of a tick or a cross."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A picture [side, side, 3] uint8, and whether it shows what the caption says."""

    picture: NDArray[np.uint8]
    passed: bool


@dataclass(frozen=True, slots=True)
class Row:
    """A caption and one picture per column."""

    caption: str
    cells: tuple[Cell, ...]


def draw_grid(heads: Sequence[str], rows: Sequence[Row]) -> bytes:
    """A PNG; heads: one per column, "" under a head that goes on."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(LETTERS)
    titles = [_wrapped(h, font, w) for h, w in zip(heads, _spans(heads), strict=True)]
    captions = [_wrapped(row.caption, font, CAPTION - 2 * GAP) for row in rows]
    head = max((_height(t) for t in titles), default=0) + GAP
    heights = [max(SIDE, _height(c)) + GAP for c in captions]
    width = 2 * MARGIN + CAPTION + len(heads) * (SIDE + GAP)
    sheet = Image.new("RGB", (width, 2 * MARGIN + head + sum(heights)), PAPER)
    pen, top = ImageDraw.Draw(sheet), MARGIN + head
    for i, title in enumerate(titles):
        pen.multiline_text((_left(i), MARGIN), title, INK, font, spacing=SPACING)
    for row, caption, height in zip(rows, captions, heights, strict=True):
        pen.multiline_text((MARGIN, top), caption, INK, font, spacing=SPACING)
        for i, cell in enumerate(row.cells):
            shown = Image.fromarray(cell.picture).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            sheet.paste(shown, (_left(i), top))
            _mark(pen, _left(i) + SIDE - MARK - 3, top + SIDE - MARK - 3, cell.passed)
        top += height
    out = io.BytesIO()
    sheet.save(out, "PNG", optimize=True)
    return out.getvalue()


def _left(column: int) -> int:
    return MARGIN + CAPTION + column * (SIDE + GAP)


def _spans(heads: Sequence[str]) -> list[int]:
    """Pixels for each head: its column, and those after it that have none."""
    widths = []
    for i in range(len(heads)):
        n = 1
        while i + n < len(heads) and not heads[i + n]:
            n += 1
        widths.append(n * (SIDE + GAP) - GAP)
    return widths


def _height(text: str) -> int:
    """Pixels of lines of text."""
    return (text.count("\n") + 1) * (LETTERS + SPACING)


def _wrapped(text: str, font: FreeTypeFont | ImageFont, width: int) -> str:
    """Lines no wider than `width` pixels; a word that is wider alone is broken."""
    lines = [""]
    for word in text.split():
        if lines[-1] and font.getlength(f"{lines[-1]} {word}") > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
        while font.getlength(lines[-1]) > width:
            long = lines[-1]
            fits = next(
                (n for n in range(len(long), 1, -1) if font.getlength(long[:n]) <= width), 1
            )
            lines[-1:] = [long[:fits], long[fits:]]
    return "\n".join(lines)


def _mark(pen: ImageDraw, x: int, y: int, passed: bool) -> None:
    """A tick or a cross on white: the default font has neither."""
    pen.rectangle((x - 2, y - 2, x + MARK + 1, y + MARK + 1), PAPER)
    far = MARK - 1
    if passed:
        tick = [(x, y + MARK // 2), (x + MARK // 3, y + far), (x + far, y)]
        pen.line(tick, GREEN, 3, "curve")
        return
    pen.line([(x, y), (x + far, y + far)], RED, 3)
    pen.line([(x, y + far), (x + far, y)], RED, 3)


def check_png(path: Path, *, overwrite: bool) -> None:
    """Refuse, before any work, to write over what is there; another file than a PNG in any case."""
    with fs.explained(path, "looking at the output"):
        if not path.parent.is_dir():
            raise EnvironmentFault("is no folder", where=str(path.parent), hint="make it first")
        if not os.path.lexists(path):
            return
        ours = path.is_file() and not path.is_symlink() and path.open("rb").read(8) == PNG
    if not overwrite:
        raise OutputExists(
            "exists already", where=str(path), hint="name another file, or pass --overwrite"
        )
    if not ours:
        raise OutputExists("is no PNG picture", where=str(path), hint="name another file")
