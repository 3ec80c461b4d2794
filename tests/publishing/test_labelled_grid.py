"""A grid with names holds the same pictures, and says which model and prompt each is of."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageFont

from bonsai_quant.publishing import labelled_grid
from bonsai_quant.publishing.labelled_grid import labelled, shortened


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def grid() -> bytes:
    """Two prompts, three models: every picture of one colour."""
    cells = [[np.full((64, 64, 3), 40 * row + 20 * column, np.uint8) for column in range(3)]
             for row in range(2)]  # fmt: skip
    return png(np.concatenate([np.concatenate(row, 1) for row in cells], 0))


def test_every_picture_is_in_its_place_and_words_stand_between(grid):
    sheet = np.asarray(Image.open(io.BytesIO(labelled(grid, ["a", "b", "c"], ["one", "two"]))))
    line = sheet.shape[0] // 1 - 2 * 192
    assert sheet.shape[1] == 3 * 192 and line % 3 == 0
    line //= 3
    for row in range(2):
        top = line + row * (192 + line) + line
        for column in range(3):
            cell = sheet[top + 4 : top + 188, column * 192 + 4 : column * 192 + 188]
            assert (cell == 40 * row + 20 * column).all()
    for top in (0, line, 2 * line + 192):  # names, and a prompt above each row
        strip = sheet[top : top + line]
        assert (strip == 255).any() and (strip < 100).any()


def test_large_pictures_keep_their_size():
    big = png(np.zeros((256, 512, 3), np.uint8))
    assert Image.open(io.BytesIO(labelled(big, ["a", "b"], ["p"]))).width == 512


def test_long_words_stay_inside():
    font = ImageFont.load_default(14)
    assert shortened("short", font, 200) == "short"
    cut = shortened("a prompt\nthat goes on " * 20, font, 200)
    assert cut.endswith("...") and font.getlength(cut) <= 200 and "\n" not in cut


def test_without_pillow_it_is_as_it_was(grid, monkeypatch):
    monkeypatch.setattr(labelled_grid, "missing", lambda names: "pillow not installed")
    assert labelled(grid, ["a", "b", "c"], ["one", "two"]) == grid
