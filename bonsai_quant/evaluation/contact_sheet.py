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
SIDE, GAP, HEAD, MARGIN = 128, 6, 20, 10
"""Pixels: of a picture as shown, between two, of a line of text, around everything."""
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

    width = 2 * MARGIN + CAPTION + len(heads) * (SIDE + GAP)
    height = 2 * MARGIN + HEAD + len(rows) * (SIDE + GAP)
    sheet = Image.new("RGB", (width, height), PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for i, head in enumerate(heads):
        pen.text((_left(i), MARGIN), head, INK, font)
    for n, row in enumerate(rows):
        top = MARGIN + HEAD + n * (SIDE + GAP)
        lines = _wrapped(row.caption, pen, font, CAPTION - 2 * GAP)
        pen.multiline_text((MARGIN, top + SIDE // 3), lines, INK, font)
        for i, cell in enumerate(row.cells):
            shown = Image.fromarray(cell.picture).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            sheet.paste(shown, (_left(i), top))
            _mark(pen, _left(i) + SIDE - MARK - 3, top + SIDE - MARK - 3, cell.passed)
    out = io.BytesIO()
    sheet.save(out, "PNG", optimize=True)
    return out.getvalue()


def _left(column: int) -> int:
    return MARGIN + CAPTION + column * (SIDE + GAP)


def _wrapped(text: str, pen: ImageDraw, font: FreeTypeFont | ImageFont, width: int) -> str:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and pen.textlength(longer, font) > width:
            lines.append(word)
        else:
            lines[-1] = longer
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
