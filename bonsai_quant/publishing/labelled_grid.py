"""The pictures of a report with names on them: models above the columns, prompts above the rows."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bonsai_quant.core.requirements import LOOK, missing

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

LEAST = 192
"""Pixels of a picture's side: smaller ones are shown larger, so that there is room for words."""
PAPER, INK = (255, 255, 255), (30, 30, 30)


def labelled(png: bytes, models: Sequence[str], prompts: Sequence[str]) -> bytes:
    """The same PNG with names. png: a row for each prompt, a column for each model, no gaps.

    As it is where Pillow is not installed.
    """
    if missing(LOOK) or not models or not prompts:
        return png
    from PIL import Image, ImageDraw, ImageFont

    grid = Image.open(io.BytesIO(png)).convert("RGB")
    wide, high = grid.width // len(models), grid.height // len(prompts)
    times = -(-LEAST // min(wide, high))
    side, tall = wide * times, high * times
    font = ImageFont.load_default(max(14, side // 24))
    line = int(font.getbbox("Ay")[3] * 1.6)
    sheet = Image.new("RGB", (side * len(models), line + (tall + line) * len(prompts)), PAPER)
    pen = ImageDraw.Draw(sheet)
    for column, model in enumerate(models):
        pen.text((column * side + 4, line // 6), shortened(model, font, side - 8), INK, font)
    for row, prompt in enumerate(prompts):
        top = line + row * (tall + line)
        pen.text((4, top + line // 6), shortened(prompt, font, sheet.width - 8), INK, font)
        for column in range(len(models)):
            box = (column * wide, row * high, (column + 1) * wide, (row + 1) * high)
            picture = grid.crop(box).resize((side, tall), Image.Resampling.BICUBIC)
            sheet.paste(picture, (column * side, top + line))
    out = io.BytesIO()
    sheet.save(out, "PNG", optimize=True)
    return out.getvalue()


def shortened(text: str, font: FreeTypeFont | ImageFont, width: int) -> str:
    """Text of one line that is at most so many pixels wide."""
    shown = " ".join(text.split())
    if font.getlength(shown) <= width:
        return shown
    while shown and font.getlength(f"{shown}...") > width:
        shown = shown[:-1]
    return f"{shown}..."
