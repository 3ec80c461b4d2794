"""Pictures are written as they are painted, with an index; a run that was stopped goes on."""

from __future__ import annotations

import hashlib
import json
import os

import numpy as np
import pytest
from PIL import Image

from bonsai_quant import generate
from bonsai_quant.core.errors import BadInput, OutputExists
from bonsai_quant.packs.picture_facts import read_facts
from bonsai_quant.runners import runner as painting
from bonsai_quant.storage.folder import lock, open_folder
from tests.support import fake_runner

PROMPTS = ["a red circle", "two squares", "a cross"]


@pytest.fixture
def runner(monkeypatch, tmp_path):
    return fake_runner.install(monkeypatch, tmp_path / "pipeline")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def contents(folder):
    return {f.name: f.read_bytes() for f in folder.iterdir()}


def stop(runner, out, after, **options):
    """A run that is interrupted when so many pictures are decoded."""
    runner.stop_after = after
    with pytest.raises(KeyboardInterrupt):
        generate("m", PROMPTS, seeds=(1, 2), out=out, **options)
    runner.stop_after = None


def test_the_index_lists_what_is_in_the_folder(runner, out):
    generate("m", PROMPTS, seeds=(7,), out=out, size="64x96", steps=3)
    index = json.loads((out / "index.json").read_text())
    assert [(e["file"], e["prompt"], e["seed"]) for e in index["pictures"]] == [
        ("0000.png", "a red circle", 7), ("0001.png", "two squares", 7), ("0002.png", "a cross", 7),
    ]  # fmt: skip
    for e in index["pictures"]:
        data = (out / e["file"]).read_bytes()
        assert e["sha256"] == hashlib.sha256(data).hexdigest()
        assert (e["width"], e["height"], e["steps"], e["model"]) == (64, 96, 3, "m")


@pytest.mark.parametrize("patience", [0.0, 60.0])
def test_a_picture_stays_when_the_run_ends_early(runner, out, monkeypatch, patience):
    monkeypatch.setattr(painting, "PATIENCE_S", patience)
    stop(runner, out, 2)
    assert sorted(contents(out)) == ["0000.png", "0001.png", "index.json"]
    assert [read_facts(out / f"000{i}.png")["seed"] for i in (0, 1)] == [1, 2]
    assert len(json.loads((out / "index.json").read_text())["pictures"]) == 2


@pytest.mark.parametrize("after", range(6))
def test_a_stopped_run_goes_on_to_the_same_pictures_and_paints_none_twice(
    runner, out, tmp_path, monkeypatch, after
):
    monkeypatch.setattr(painting, "PATIENCE_S", 0.0)
    generate("m", PROMPTS, seeds=(1, 2), out=tmp_path / "whole")
    runner.decoded = 0
    stop(runner, out, after)
    before = contents(out)
    made = generate("m", PROMPTS, seeds=(1, 2), out=out, resume=True)
    assert runner.decoded == 6
    assert made.kept == after
    assert [p.path.name for p in made.pictures] == [f"{i:04d}.png" for i in range(6)]
    assert contents(out) == contents(tmp_path / "whole")
    assert all(contents(out)[n] == data for n, data in before.items() if n != "index.json")
    again = generate("m", PROMPTS, seeds=(1, 2), out=out, resume=True)
    assert (runner.decoded, again.kept, again.stages) == (6, 6, ())


def test_a_picture_that_the_index_does_not_know_yet_counts(runner, out):
    generate("m", PROMPTS, out=out)
    (out / "index.json").unlink()
    assert generate("m", PROMPTS, out=out, resume=True).kept == 3
    assert len(json.loads((out / "index.json").read_text())["pictures"]) == 3


def test_a_damaged_picture_is_painted_again(runner, out, caplog):
    generate("m", PROMPTS, out=out)
    whole = contents(out)
    (out / "0000.png").write_bytes(whole["0000.png"][:-20])
    other = Image.fromarray(np.zeros((64, 64, 3), np.uint8))
    other.save(out / "0001.png")
    (out / "0002.png").unlink()
    assert generate("m", PROMPTS, out=out, resume=True).kept == 0
    assert contents(out) == whole
    assert "is cut" in caplog.text
    assert "0001.png" in caplog.text


def test_a_file_that_no_index_lists_is_not_replaced(runner, out):
    out.mkdir()
    (out / "0001.png").write_bytes(b"years of work")
    with pytest.raises(BadInput, match=r"0001\.png: is no PNG file"):
        generate("m", PROMPTS, out=out, resume=True)
    (out / "0001.png").unlink()
    (out / "index.json").write_text('{"pictures": []}')
    with pytest.raises(OutputExists, match="not an index of pictures of this program"):
        generate("m", PROMPTS, out=out)
    assert runner.decoded == 0


@pytest.mark.parametrize(("options", "message"), [
    ({"seeds": (2, 1)}, "seed 1, not 2"),
    ({"steps": 2}, "num_inference_steps 4, not 2"),
    ({"size": "96"}, "height 64, not 96"),
    ({"place": "other"}, "model 'm', not 'other'"),
    ({"prompts": PROMPTS[::-1]}, "prompt 'a red circle', not 'a cross'"),
])  # fmt: skip
def test_other_settings_are_no_continuation(runner, out, options, message):
    stop(runner, out, 3)
    asked = {"place": "m", "prompts": PROMPTS, "seeds": (1, 2), "out": out} | options
    before = contents(out)
    with pytest.raises(OutputExists, match=message):
        generate(asked.pop("place"), asked.pop("prompts"), resume=True, **asked)
    assert contents(out) == before
    assert runner.decoded == 3


def test_without_resume_an_earlier_run_is_left_alone(runner, out):
    stop(runner, out, 3)
    before = contents(out)
    with pytest.raises(OutputExists, match="pass --resume to go on with it"):
        generate("m", PROMPTS, seeds=(1, 2), out=out)
    assert contents(out) == before
    generate("m", PROMPTS, seeds=(3,), out=out, overwrite=True)
    assert len(json.loads((out / "index.json").read_text())["pictures"]) == 3


def test_single_files_go_on_too(runner, out, tmp_path, monkeypatch):
    one = out.with_suffix(".png")
    assert [generate("m", ["x"], out=one, resume=True).kept for _ in range(2)] == [0, 1]
    monkeypatch.chdir(tmp_path)
    generate("m", ["x"])
    made = generate("m", ["x", "x", "y"], resume=True)
    assert (made.kept, [str(p.path) for p in made.pictures]) == (
        1,
        ["x-0.png", "x-0-2.png", "y-0.png"],
    )
    with pytest.raises(OutputExists, match="num_inference_steps 4, not 2"):
        generate("m", ["x"], steps=2, resume=True)
    assert runner.decoded == 4


def test_one_run_at_a_time_writes_to_a_folder(runner, out):
    out.mkdir()
    fd = open_folder(out)
    try:
        lock(fd, out)
        with pytest.raises(OutputExists, match="is being written by"):
            generate("m", PROMPTS, out=out)
    finally:
        os.close(fd)
    assert contents(out) == {}


def test_names_of_their_own_never_write_over_anything(runner, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = [str(p.path) for _ in range(2) for p in generate("m", ["A red, Circle!"] * 2).pictures]
    assert made == [f"a-red-circle-0{n}.png" for n in ("", "-2", "-3", "-4")]
    assert [str(p.path) for p in generate("m", ["画", "..//.."], seeds=(3,)).pictures] == [
        "画-3.png", "picture-3.png",
    ]  # fmt: skip
    assert not (tmp_path / "index.json").exists()


def test_the_last_step_foresees_the_picture(runner, out):
    generate("m", ["x"], out=out / "a.png", save_steps=True)
    steps = [np.asarray(Image.open(out / f"a.step{i}.png"), int) for i in (1, 2, 3, 4)]
    final = np.asarray(Image.open(out / "a.png"), int)
    assert np.array_equal(steps[-1], final)
    far = [np.abs(s - final).mean() for s in steps]
    assert far == sorted(far, reverse=True)
    assert far[0] > 1
    with pytest.raises(OutputExists, match=r"b\.step2\.png"):
        (out / "b.step2.png").write_bytes(b"mine")
        generate("m", ["x"], out=out / "b.png", save_steps=True)


def test_parts_are_loaded_once_for_a_group(runner, out, monkeypatch):
    monkeypatch.setattr(painting, "AT_ONCE", 2)
    generate("m", [*PROMPTS, PROMPTS[0]], seeds=(1, 2), out=out)
    assert runner.encoded == [PROMPTS[:2], [PROMPTS[2], PROMPTS[0]]]
    assert runner.loads == ["encoder", "transformer", "decoder"] * 2
    assert runner.steps == 8 * 4
    monkeypatch.setattr(painting, "PATIENCE_S", 0.0)
    runner.loads.clear()
    generate("m", PROMPTS[:1], seeds=(1, 2), out=out / "b")
    assert runner.loads == ["encoder", *["transformer", "decoder"] * 2]
    same = [(out / name).read_bytes() for name in ("0000.png", "b/0000.png")]
    assert same[0] == same[1]
