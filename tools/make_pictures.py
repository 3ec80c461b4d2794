"""Paint docs/pictures.png: mini-klein and its two packs, the same captions from the same seed.

python tools/make_pictures.py docs/pictures.png

Nobody chose the captions: they are the first held-out one of four of the benchmark's categories.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from bonsai_quant import generate
from bonsai_quant.evaluation.scenes.grammar import prompts
from bonsai_quant.evaluation.scenes.world import WORLDS

MODELS = {
    "mini-klein": "source\n16 bits\n16.3 MB",
    "mini-klein-ternary": "ternary\n-1, 0, +1\n4.2 MB",
    "mini-klein-binary": "binary\n-1, +1\n3.6 MB",
}
"""Shipped name -> what stands left of its row; the sizes are those of the weight files."""
CATEGORIES = ("two_objects", "counting", "position", "color_attribution")
SEED = 0
SIDE, GAP, HEAD, LEFT = 160, 8, 48, 84
"""Pixels: of a picture as shown, between two, for the captions, for the names."""
PAPER, INK = (255, 255, 255), (40, 40, 40)


def main(out: Path) -> None:
    """Paint, put side by side, write."""
    asked = prompts(WORLDS["small"], "test", per_category=1)
    captions = [p.text for c in CATEGORIES for p in asked if p.meaning.category == c]
    size = (LEFT + len(captions) * (SIDE + GAP), HEAD + len(MODELS) * (SIDE + GAP))
    sheet = Image.new("RGB", size, PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for n, caption in enumerate(captions):
        place = (LEFT + n * (SIDE + GAP), GAP)
        pen.multiline_text(place, _wrapped(caption, pen, font), INK, font)
    with tempfile.TemporaryDirectory() as folder:
        for i, (model, name) in enumerate(MODELS.items()):
            top = HEAD + i * (SIDE + GAP)
            pen.multiline_text((GAP, top + SIDE // 3), name, INK, font)
            made = generate(model, captions, out=Path(folder) / model, seeds=(SEED,))
            for n, picture in enumerate(made.pictures):
                shown = Image.open(picture.path).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
                sheet.paste(shown, (LEFT + n * (SIDE + GAP), top))
    sheet.save(out, optimize=True)


def _wrapped(caption: str, pen: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont) -> str:
    lines = [""]
    for word in caption.split():
        longer = f"{lines[-1]} {word}".strip()
        if pen.textlength(longer, font) <= SIDE:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
