"""Paint docs/pictures.png or docs/ladder.png: the same captions from the same seed, row by row.

    python tools/make_pictures.py models docs/pictures.png
    python tools/make_pictures.py ladder docs/ladder.png

models: mini-klein and the two packs that ship.  ladder: mini-klein, and ternary packs of it that
were trained, calibrated and only rounded; the latter two are made anew.
Nobody chose the captions: they are the first held-out one of four of the benchmark's categories.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from bonsai_quant import calibrate, convert, generate
from bonsai_quant.evaluation.scenes.grammar import prompts
from bonsai_quant.evaluation.scenes.world import WORLDS
from bonsai_quant.packs.quality import kept_by
from bonsai_quant.training.recipe import load_recovery

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


def ladder(folder: Path) -> dict[str, str]:
    """Model -> what stands left of its row. folder: for the packs that are made."""
    settings = load_recovery("mini-klein-ternary", None).calibration
    assert settings is not None
    inputs = calibrate(
        "mini-klein", mode="ternary", solver="gptq", n_prompts=settings.n_prompts,
        at_once=settings.at_once, out=folder / "inputs",
    )  # fmt: skip
    for solver, calibration in (("gptq", inputs.out), ("exact", None)):
        convert("mini-klein", mode="ternary", solver=solver, calibration=calibration,
                formats="bonsai", out=folder / solver)  # fmt: skip
    rows = {"mini-klein": "source\n16 bits"}
    for model, name, way in (("mini-klein-ternary", "trained", "trained"),
                             (str(folder / "gptq"), "calibrated", "gptq"),
                             (str(folder / "exact"), "rounded", "exact")):  # fmt: skip
        share = kept_by("ternary", way)
        assert share is not None
        rows[model] = f"{name}\nkeeps\n{100 * share.value:.1f} %"
    return rows


def paint(rows: dict[str, str], out: Path, folder: Path) -> None:
    """Paint, put side by side, write. rows: model -> what stands left of its pictures."""
    asked = prompts(WORLDS["small"], "test", per_category=1)
    captions = [p.text for c in CATEGORIES for p in asked if p.meaning.category == c]
    size = (LEFT + len(captions) * (SIDE + GAP), HEAD + len(rows) * (SIDE + GAP))
    sheet = Image.new("RGB", size, PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for n, caption in enumerate(captions):
        place = (LEFT + n * (SIDE + GAP), GAP)
        pen.multiline_text(place, _wrapped(caption, pen, font), INK, font)
    for i, (model, name) in enumerate(rows.items()):
        top = HEAD + i * (SIDE + GAP)
        pen.multiline_text((GAP, top + SIDE // 3), name, INK, font)
        made = generate(model, captions, out=folder / f"painted-{i}", seeds=(SEED,))
        for n, picture in enumerate(made.pictures):
            shown = Image.open(picture.path).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            sheet.paste(shown, (LEFT + n * (SIDE + GAP), top))
    sheet.save(out, optimize=True)


def main(what: str, out: Path) -> None:
    """Paint one of the two."""
    with tempfile.TemporaryDirectory() as folder:
        rows = ladder(Path(folder)) if what == "ladder" else MODELS
        paint(rows, out, Path(folder))


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
    main(sys.argv[1], Path(sys.argv[2]))
