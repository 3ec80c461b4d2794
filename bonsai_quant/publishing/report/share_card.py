"""share.png: what others see of a link to a report."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from .records import Report, SideBySide
from .tiles import NOT_MEASURED, cards

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

WIDTH, HEIGHT = 1200, 630
"""Pixels that sites ask for."""
MARGIN, GAP = 48, 10
PAPER, INK, SOFT, GREEN = (247, 249, 248), (24, 30, 27), (86, 97, 92), (11, 110, 79)
LABEL = 230
"""Pixels for the names of models, left of their pictures."""


def draw_card(report: Report) -> bytes:
    """A PNG of 1200 x 630: names, sizes, what was measured, and the first pictures."""
    from PIL import Image, ImageDraw

    card = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    pen = ImageDraw.Draw(card)
    pen.rectangle((0, 0, WIDTH, 12), GREEN)
    top = _text(
        pen, MARGIN, 36, ", ".join(p.name for p in report.packs), 44, INK, WIDTH - 2 * MARGIN
    )
    for c in cards(report):
        top = _text(pen, MARGIN, top + 4, _line(c), 23, SOFT, WIDTH - 2 * MARGIN)
    if isinstance(report.gallery, SideBySide):
        _pictures(card, pen, report.gallery, top + 22)
    out = io.BytesIO()
    card.save(out, "PNG", optimize=True)
    return out.getvalue()


def _line(card: dict[str, Any]) -> str:
    """A pack in one line."""
    short = {"Pictures as asked": "pictures as asked", "Checks passed": "checks passed"}
    figures = [
        f"{f['figure']} {short.get(f['what'], f['what'])}"
        for f in card["figures"]
        if f["figure"] != NOT_MEASURED
    ]
    return f"{card['mode']}: {card['before']} to {card['after']}; " + "; ".join(figures)


def _pictures(card: Image, pen: ImageDraw, gallery: SideBySide, top: int) -> None:
    """A row for each model, a column for each prompt, as large as there is room."""
    from PIL import Image

    n, m = len(gallery.models), len(gallery.prompts)
    height, width = gallery.pictures.shape[2:4]
    tall = min((HEIGHT - MARGIN // 2 - top) // n - GAP, 220)
    wide = tall * width // height
    if tall < 40:
        return
    pixelated = max(height, width) < tall
    for i, model in enumerate(gallery.models):
        y = top + i * (tall + GAP)
        _text(pen, MARGIN, y + tall // 2 - 12, model, 22, INK, LABEL - GAP)
        for j in range(min(m, (WIDTH - 2 * MARGIN - LABEL + GAP) // (wide + GAP))):
            how = Image.Resampling.NEAREST if pixelated else Image.Resampling.LANCZOS
            shown = Image.fromarray(gallery.pictures[i, j]).resize((wide, tall), how)
            card.paste(shown, (MARGIN + LABEL + j * (wide + GAP), y))


def _text(
    pen: ImageDraw, x: int, y: int, text: str, size: int, colour: tuple[int, int, int], width: int
) -> int:
    """One line, in smaller letters or cut where it is too wide; -> where it ends below."""
    from PIL import ImageFont

    font = ImageFont.load_default(size)
    while font.getlength(text) > width and font.size > size * 0.6:
        font = ImageFont.load_default(font.size - 1)
    cut = text
    while font.getlength(cut) > width and len(cut) > 2:
        cut = cut[:-2].rstrip() + "\u2026"
    pen.text((x, y), cut, colour, font)
    return y + int(size * 1.3)
