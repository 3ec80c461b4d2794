"""`generate` on the command line: where prompts, seeds and settings come from, and what it says."""

from __future__ import annotations

import io
import json
import logging
import re
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from bonsai_quant.cli.wishes import generate_arguments
from bonsai_quant.packs.picture_facts import read_facts
from tests.support import fake_runner

CIRCLE = "a red circle"
PAIR = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
"""How readers of such texts take the pairs of the last line."""


@pytest.fixture(autouse=True)
def runner(monkeypatch, tmp_path):
    made = fake_runner.install(monkeypatch, tmp_path / "toy")
    (tmp_path / "toy/benchmark.json").unlink()
    monkeypatch.setattr(
        "bonsai_quant.cli.wishes.locate", lambda *_, **__: SimpleNamespace(folder=tmp_path / "toy")
    )
    monkeypatch.chdir(tmp_path)
    yield made
    logging.basicConfig(force=True)


@pytest.fixture
def paint(run):
    def call(*arguments):
        done = run("generate", "toy", *arguments, "--json")
        assert done.code == 0, done.err
        return [(p["path"], p["prompt"], p["seed"]) for p in json.loads(done.out)["pictures"]]

    return call


def test_one_word_is_enough(run, tmp_path):
    done = run("generate", "toy", "-p", CIRCLE, "--size", "64")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].split("  ") == ["a-red-circle-0.png", "seed 0", CIRCLE]
    assert re.match(r"1 picture in \d+\.\d s by fake; memory at most, ", lines[2])
    assert lines[-1] == "next: bonsai-quant inspect a-red-circle-0.png"
    assert (tmp_path / "a-red-circle-0.png").exists()


def test_what_inspect_shows_of_a_picture(paint, run):
    prompt = 'a "red" circle, left: of\u00a0a 画'
    paint("-p", prompt, "--seed", "3", "--steps", 2, "--size", "96x64",
          "-o", "a.png")  # fmt: skip
    found = json.loads(run("inspect", "a.png", "--json").out)["found"]
    facts = found[0]["facts"]
    assert found[0]["kind"] == "picture"
    assert facts["prompt"] == prompt
    assert (facts["seed"], facts["size"], facts["steps"]) == ("3", "96x64", "2")
    assert (facts["model"], facts["runner"]) == ("toy", "fake")
    *said, last = Image.open("a.png").text["parameters"].split("\n")
    assert "\n".join(said) == facts["prompt"]
    pairs = dict(PAIR.findall(last))
    assert len(PAIR.findall(last)) >= 3
    assert {k: pairs[k] for k in ("Steps", "Seed", "Size", "Model", "Sampler")} == {
        "Steps": "2", "Seed": "3", "Size": "96x64", "Model": "toy", "Sampler": "Euler",
    }  # fmt: skip


def test_inspect_of_pictures_from_elsewhere(run, tmp_path):
    Image.new("RGB", (64, 64)).save("plain.png")
    done = run("inspect", "plain.png")
    assert (done.code, "does not say how it was painted" in done.err) == (3, True)
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("parameters", "a cat\nSteps: 4")
    Image.new("RGB", (64, 64)).save("other.png", pnginfo=info)
    assert "a cat" in run("inspect", "other.png").out
    info.add_text("bonsai-quant", '{"prompt": 7}')
    Image.new("RGB", (64, 64)).save("wrong.png", pnginfo=info)
    assert run("inspect", "wrong.png").code == 3


def test_prompts_come_from_standard_input(paint, run, monkeypatch):
    def say(data):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))

    say(b"# two\na red circle\n\na cross\n")
    assert [p[1] for p in paint("--prompts", "-", "-o", "a")] == [CIRCLE, "a cross"]
    say(b"# nothing\n")
    done = run("generate", "toy", "--prompts", "-", "-o", "b")
    assert (done.code, "holds no prompt" in done.err) == (3, True)


def test_seeds_on_the_command_line(paint):
    assert [p[2] for p in paint("-p", "x", "--seed", "1-2", "--seed", "9", "-o", "a")] == [1, 2, 9]
    made = paint("-p", "x", "-p", "y", "--seed", "5", "--count", 2, "-o", "b")
    assert [p[1:] for p in made] == [("x", 5), ("x", 6), ("y", 5), ("y", 6)]
    ((path, _, seed),) = paint("-p", "x", "--seed", "random")
    assert path == f"x-{seed}.png"
    assert read_facts(Path(path))["seed"] == seed


def test_like_takes_what_is_not_given(paint):
    paint("-p", CIRCLE, "--seed", 4, "--steps", 2, "--size", "64x96", "-o", "a.png")
    first = read_facts(Path("a.png"))
    assert paint("--like", "a.png", "-o", "b.png") == [("b.png", CIRCLE, 4)]
    assert Path("b.png").read_bytes() == Path("a.png").read_bytes()
    paint("--like", "a.png", "-p", "a cross", "--size", "64", "-o", "c.png")
    other = read_facts(Path("c.png"))
    assert {k for k in first if first[k] != other[k]} == {"prompt", "height"}
    assert [p[2] for p in paint("--like", "a.png", "--count", 2, "-o", "d")] == [4, 5]


def test_a_folder_goes_on_with_resume(paint, run):
    paint("-p", "x", "-o", "a")
    paint("-p", "x", "--seed", "0-1", "-o", "a", "--resume")
    done = run("generate", "toy", "-p", "x", "--seed", "0-1", "-o", "a", "--resume")
    assert "nothing to paint; 2 were there" in done.out
    done = run("generate", "toy", "-p", "x", "--seed", "random", "-o", "a", "--resume")
    assert (done.code, "give the seeds of the first run" in done.err) == (2, True)


def test_a_long_list_is_not_shown_in_full(run):
    done = run("generate", "toy", "-p", "x", "--count", 23, "-o", "a", "--size", 64)
    assert "0019.png" in done.out
    assert "0020.png" not in done.out
    assert "and 3 more, up to a/0022.png" in done.out


def test_words_that_the_model_does_not_know(run, tmp_path):
    (tmp_path / "toy/benchmark.json").write_text(json.dumps(fake_runner.BENCHMARK))
    done = run("generate", "toy", "-p", "a cat left of a red circle")
    assert done.code == 0
    assert done.err == (
        "toy knows only coloured shapes (red, yellow, green, blue, purple; circle, square, "
        "triangle, cross): 'cat' is not one of its words; "
        'try: "a red circle left of a blue square"\n'
    )
    assert run("generate", "toy", "-p", "two big red circles on a dark background").err == ""
    assert (
        "'Red', 'Circle.', 'dog' and 1 more are"
        in run("generate", "toy", "-p", "a Red Circle. a dog cat").err
    )
    assert run("generate", "toy", "-p", "a cat", "--quiet", "--seed", 1).err == ""


def test_ctrl_c_names_the_command_that_goes_on(runner, run, monkeypatch, tmp_path):
    monkeypatch.setattr("bonsai_quant.cli.exit.os._exit", sys.exit)  # or pytest would be gone
    runner.stop_after = 1
    done = run("generate", "toy", "-p", "x", "--count", "2", "-o", "a", "--size", "64")
    assert done.code == 130
    last = done.err.splitlines()[-1]
    assert last.endswith("generate toy -p x --count 2 -o a --size 64 --resume")
    runner.stop_after = None
    done = run(*shlex.split(last.partition("continue with: ")[2])[1:], "--json")
    assert json.loads(done.out)["kept"] == 1

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("bonsai_quant.cli.commands.pictures.run_score", stop)
    told = run("score", "toy").err.splitlines()[-1]
    assert told == "interrupted; with -o FOLDER, a run can be continued"
    assert "continue with: " in run("score", "toy", "-o", "kept").err


def test_like_a_picture_with_a_lora_asks_for_the_file(paint, caplog, monkeypatch):
    facts = {"prompt": CIRCLE, "seed": 3, "width": 64, "height": 64, "lora": [{"name": "a"}]}
    monkeypatch.setattr("bonsai_quant.cli.wishes.read_facts", lambda path: facts)
    asked = generate_arguments(
        prompts=(), file=None, seeds=(), count=None, like="b.png", size=None, steps=None,
        images=(), lora=(), resume=False,
    )  # fmt: skip
    assert (asked["prompts"], asked["size"]) == ([CIRCLE], "64x64")
    assert "b.png was painted with a LoRA: name that with --lora" in caplog.text
