"""Answers on a terminal: tables fold to its width, and colour says nothing that no word says."""

from __future__ import annotations

import re

import pytest

from bonsai_quant.cli.terminal import rendered
from bonsai_quant.cli.views.answer import Answer, Table

ROWS = (
    ("passed", "codes", "mlx = bonsai", "32 packed and 25 kept tensors"),
    ("FAILED", "codes", "gemlite = bonsai", "single_transformer_blocks.3.attn.to_out: row 17"),
)


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_table_fits_the_terminal_and_loses_no_word(width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    shown = plain(rendered([Table(ROWS), "1 passed, 1 failed"]))
    assert max(map(len, shown.splitlines())) <= width
    for row in ROWS:
        for word in " ".join(row).split():
            assert word in re.sub(r"\s+", " ", shown) or word in re.sub(r"\s+", "", shown), word
    assert shown.endswith("1 passed, 1 failed")


def test_colour_stands_beside_the_word_and_leaves_with_no_color(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = rendered([Table(ROWS)])
    assert re.search(r"\x1b\[32mpassed", coloured) and re.search(r"\x1b\[1;31mFAILED", coloured)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[32m" not in rendered([Table(ROWS)])


def test_a_hostile_cell_cannot_forge_a_line():
    table = Table([("name", "\x1b[2J\nnext: rm")])
    assert "\x1b[2J" not in rendered([table]) and "\\x1b" in plain(rendered([table]))


def test_in_a_pipe_no_line_is_cut():
    text = Answer([Table([("a" * 90, "b" * 90)]), "end"], {}).text
    assert text == "a" * 90 + "  " + "b" * 90 + "\nend"


def test_a_command_stays_one_line_to_be_copied(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    line = "next: bonsai-quant generate packs -p 'a red circle left of a blue square' -o circle.png"
    assert plain(rendered([Table(ROWS), line])).splitlines()[-1] == line


def test_a_long_name_is_cut_behind_its_marks(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    name = "  mlx/transformer-packed-mflux/diffusion_pytorch_model.safetensors"
    lines = plain(rendered([Table([(name, "4,588,864", "kept")], (1,))])).splitlines()
    assert lines[0].split() == ["mlx/transformer-packed-mflux/diffusion_", "4,588,864", "kept"]
    assert lines[1].rstrip() == "  pytorch_model.safetensors"


def test_prose_is_folded_between_words(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    prose = "pictures: rounding only, by the solver exact; measured on a model: such packs kept 1 %"
    lines = plain(rendered([prose])).splitlines()
    assert len(lines) == 2 and " ".join(line.strip() for line in lines) == prose
