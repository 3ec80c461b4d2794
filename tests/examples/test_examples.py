"""Every program in examples/ runs, in an empty folder, on the stand-in for mini-klein."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path

import pytest

from bonsai_quant import convert

EXAMPLES = Path(__file__).parents[2] / "examples"
WRITES = {
    "convert_a_model": {"packs"},
    "paint_a_picture": {"rounded", "circle-source.png", "circle-rounded.png", "circle-trained.png"},
    "merge_a_lora": {"style.safetensors", "plain", "styled"},
    "compare_two_packs": {"exact", "absmean"},
}
"""What each example says that it writes."""
PRINTS = {
    "convert_a_model": "passed: codes",
    "paint_a_picture": "circle-trained.png: ",
    "merge_a_lora": "transformer_blocks.0.attn.to_q.weight: ",
    "compare_two_packs": "absmean: relative error 0.",
}


@pytest.fixture
def shipped_pack(shipped, tmp_path_factory, monkeypatch) -> None:
    """The stand-in, and its pack in the place of the trained one that ships with the package."""
    data = tmp_path_factory.mktemp("data")
    shutil.copytree(shipped, data / "mini-klein")
    monkeypatch.setattr("bonsai_quant.sources.shipped.DATA", data)
    convert("mini-klein", mode="ternary", formats="bonsai", out=data / "out")
    (data / "out" / "bonsai").rename(data / "mini-klein-ternary")


def test_every_example_is_listed():
    programs = {path.stem for path in EXAMPLES.glob("*.py")}
    assert programs == set(WRITES) == set(PRINTS)
    page = (EXAMPLES / "README.md").read_text()
    assert all(f"({name}.py)" in page for name in programs)


@pytest.mark.parametrize("name", WRITES)
def test_an_example_runs(name, shipped_pack, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert {path.name for path in tmp_path.iterdir()} == WRITES[name]
    out = capsys.readouterr().out
    assert PRINTS[name] in out
    if name == "merge_a_lora":
        assert len(out.splitlines()) == 1, "the LoRA is of one layer"
