"""`diff` counts codes where there are codes, and values where a tensor is kept."""

from __future__ import annotations

import json
import shutil

from bonsai_quant import diff
from bonsai_quant.packs.read import open_pack
from tests.support import forge

SIGN, LEAST = 0x80, 0x08
"""Bits of a number of fp16 that is one of bf16 too, in its high and in its low byte."""


def test_a_kept_value_that_changed_is_no_flipped_code(packs, tmp_path, run):
    shutil.copytree(packs.out / "bonsai", tmp_path / "pack")
    kept = open_pack(tmp_path / "pack").info.kept[0]
    for value in (0, 3):
        forge.flip(tmp_path / "pack", kept.name, 2 * value + 1, SIGN)
    forge.resign(tmp_path / "pack")
    (change,) = [d for d in diff(packs.out / "bonsai", tmp_path / "pack").layers if not d.same]
    assert (change.name, change.kept_changed, change.size) == (kept.name, 2, kept.size)
    assert (change.flipped, change.sign_flips, change.scale_drift) == (0, 0, 0.0)
    text = run("diff", packs.out / "bonsai", tmp_path / "pack").out
    assert "flipped" not in text
    assert "values changed" in text
    assert kept.name in text


def test_both_kinds_of_change_are_listed_apart(packs, tmp_path, run):
    shutil.copytree(packs.out / "bonsai", tmp_path / "pack")
    info = open_pack(tmp_path / "pack").info
    forge.flip(tmp_path / "pack", info.kept[0].name, 1, SIGN)
    forge.flip(tmp_path / "pack", f"{info.packed[0].linear}.scales", 0, LEAST)
    forge.resign(tmp_path / "pack")
    answer = run("diff", packs.out / "bonsai", tmp_path / "pack", "--json")
    layers = {d["name"]: d for d in json.loads(answer.out)["layers"]}
    assert layers[info.kept[0].name]["kept_changed"] == 1
    assert layers[info.packed[0].name]["kept_changed"] == 0
    assert layers[info.packed[0].name]["scale_drift"] > 0
    text = run("diff", packs.out / "bonsai", tmp_path / "pack").out
    codes, kept = text.split("values changed")
    assert "2 of " in codes
    assert info.packed[0].name in codes
    assert info.kept[0].name in kept
