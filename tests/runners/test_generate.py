"""`generate` writes the pictures that were asked for, says what they are, and refuses the rest."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from bonsai_quant import generate
from bonsai_quant.core.errors import (
    BadInput,
    EnvironmentFault,
    OutputExists,
    UsageError,
    VerificationFailed,
)
from bonsai_quant.runners import runner as painting
from bonsai_quant.runners.picture_settings import read_benchmark
from bonsai_quant.runners.torch.dense import open_pipeline, paint_dense
from bonsai_quant.runners.torch.runner import TorchRunner
from tests.support.forge import flip, orphan, resign
from tests.support.watching import Watching

pytestmark = pytest.mark.heavy

CIRCLE = "a red circle"
PACKAGE = {"torch": "torch", "mlx": "mlx_lm"}


@pytest.fixture
def pack(standin_packs):
    return standin_packs


@pytest.fixture
def copy(pack, tmp_path):
    shutil.copytree(pack / "bonsai", tmp_path / "copy")
    return tmp_path / "copy"


def test_one_prompt_is_one_file_with_its_settings(pack, standin, tmp_path):
    out = tmp_path / "circle.png"
    made = generate(pack, [CIRCLE], out=out, seeds=[5], pipeline=str(standin))
    image = Image.open(out)
    said = json.loads(image.text["bonsai-quant"])
    assert (said["prompt"], said["seed"], said["mode"]) == (CIRCLE, 5, "ternary")
    assert said["weights_sha256"] and said["num_inference_steps"] == 4
    assert image.text["parameters"].startswith(f"{CIRCLE}\nSteps: 4, Sampler: Euler, ")
    assert not [k for k, text in image.text.items() if str(standin) in text]
    settings = read_benchmark(standin).settings
    pipe = open_pipeline(pack, pipeline=str(standin))
    (theirs,) = paint_dense(pipe, [CIRCLE], [5], settings)
    assert np.abs(np.asarray(image).astype(int) - theirs).max() <= 1
    assert [s.name for s in made.stages] == ["encoders", "transformer", "decoder"]
    assert all(s.seconds > 0 and s.peak_bytes > 1e6 for s in made.stages)


def test_every_prompt_from_every_seed(pack, standin, tmp_path):
    watching = Watching()
    made = generate(
        pack, [CIRCLE, "two squares"], out=tmp_path / "all", seeds=[1, 2], size="96x64", steps=2,
        pipeline=str(standin), progress=watching,
    )  # fmt: skip
    assert [(p.prompt, p.seed) for p in made.pictures] == [
        (CIRCLE, 1), (CIRCLE, 2), ("two squares", 1), ("two squares", 2),
    ]  # fmt: skip
    names = [f"{i:04d}.png" for i in range(4)]
    assert sorted(f.name for f in (tmp_path / "all").iterdir()) == [*names, "index.json"]
    assert Image.open(made.pictures[0].path).size == (96, 64)
    assert watching.of("denoising") == (8, 8)
    assert watching.of("decoding") == (4, 4)


@pytest.mark.parametrize(("wrong", "message"), [
    ({"prompts": []}, "a prompt is empty"),
    ({"prompts": [CIRCLE, " "]}, "a prompt is empty"),
    ({"seeds": [-1]}, "seed -1"),
    ({"seeds": [2**63]}, "seed 9223372036854775808"),
    ({"size": "50x64"}, "multiple of 16"),
    ({"size": "4096"}, "from 64 to 2048"),
    ({"size": "48"}, "from 64 to 2048"),
    ({"size": "big"}, "give WIDTHxHEIGHT"),
    ({"steps": 0}, "0 steps"),
    ({"backend": "tpu"}, "torch or gemlite or mlx"),
    ({"out": "folder", "steps": 0, "seeds": [0, 1]}, "0 steps"),
    ({"out": "picture.jpg"}, "no .png file"),
    ({"out": "one.png", "seeds": [0, 1]}, "no folder for 2 pictures"),
], ids=str)  # fmt: skip
def test_wrong_wishes_are_refused_before_anything_is_loaded(
    pack, standin, tmp_path, monkeypatch, wrong, message
):
    monkeypatch.setattr(TorchRunner, "encode", lambda *_, **__: pytest.fail("loaded"))
    options = {"prompts": [CIRCLE], "out": "x.png", "pipeline": str(standin)} | wrong
    options["out"] = tmp_path / options["out"]
    with pytest.raises(UsageError, match=message):
        generate(pack, options.pop("prompts"), **options)
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_picture_stays_unless_told_otherwise(pack, standin, tmp_path):
    out = tmp_path / "a.png"
    out.write_bytes(b"precious")
    with pytest.raises(OutputExists, match="--overwrite"):
        generate(pack, [CIRCLE], out=out, pipeline=str(standin))
    assert out.read_bytes() == b"precious"
    generate(pack, [CIRCLE], out=out, pipeline=str(standin), overwrite=True)
    assert Image.open(out).size == (64, 64)


def test_too_little_memory_is_said_before_loading(pack, standin, tmp_path):
    with pytest.raises(
        EnvironmentFault, match=r"[MG]B of memory are needed, and 100 MB are allowed"
    ):
        generate(pack, [CIRCLE], out=tmp_path / "a.png", pipeline=str(standin),
                 max_memory=100_000_000)  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_pack_does_not_run_unless_told_to(copy, standin, tmp_path):
    flip(copy, "transformer_blocks.0.attn.to_q.scales", 0, 0x08)
    out = tmp_path / "a.png"
    with pytest.raises(VerificationFailed, match=r"model.safetensors.*--unverified"):
        generate(copy, [CIRCLE], out=out, pipeline=str(standin))
    assert not out.exists()
    generate(copy, [CIRCLE], out=out, pipeline=str(standin), unverified=True)
    assert out.exists()


def test_illegal_values_do_not_run_even_so(copy, standin, tmp_path):
    flip(copy, "transformer_blocks.0.attn.to_q.scales", 1, 0x80)  # a negative scale
    resign(copy)
    with pytest.raises(VerificationFailed, match="to_q.scales"):
        generate(copy, [CIRCLE], out=tmp_path / "a.png", pipeline=str(standin), unverified=True)


def test_a_pack_of_another_program_runs_with_a_word(copy, standin, tmp_path, caplog):
    orphan(copy)
    generate(copy, [CIRCLE], out=tmp_path / "a.png", pipeline=str(standin))
    assert "made by another program" in caplog.text


def test_a_prompt_that_is_cut_is_said_to_be(pack, standin, tmp_path, caplog):
    long = "a red circle " * 10
    generate(pack, [long], out=tmp_path / "a.png", pipeline=str(standin))
    assert "the last" in caplog.text
    assert "are not read" in caplog.text


def test_a_picture_to_edit_is_seen_as_stock_diffusers_sees_it(pack, standin, tmp_path):
    rng = np.random.default_rng(0)
    shown = Image.fromarray(rng.integers(0, 256, (70, 100, 3), np.uint8))
    shown.save(tmp_path / "in.png")
    pipe = open_pipeline(pack, pipeline=str(standin))
    (theirs,) = pipe(
        prompt=CIRCLE, image=[shown], height=64, width=64, num_inference_steps=4,
        guidance_scale=1.0, max_sequence_length=20, output_type="np",
        generator=torch.Generator().manual_seed(5),
    ).images  # fmt: skip
    for backend in ("torch", "mlx"):
        pytest.importorskip(PACKAGE[backend])
        out = tmp_path / f"{backend}.png"
        generate(pack, [CIRCLE], out=out, seeds=[5], pipeline=str(standin), backend=backend,
                 images=[tmp_path / "in.png"])  # fmt: skip
        assert np.abs(np.asarray(Image.open(out)) - 255 * theirs).max() < 2
    generate(pack, [CIRCLE], out=tmp_path / "alone.png", seeds=[5], pipeline=str(standin))
    assert np.abs(np.asarray(Image.open(tmp_path / "alone.png")) - 255 * theirs).max() > 5


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_a_picture_does_not_depend_on_what_is_painted_with_it(
    pack, standin, tmp_path, monkeypatch, backend
):
    pytest.importorskip(PACKAGE[backend])
    asked = {"seeds": [1, 2], "pipeline": str(standin), "backend": backend, "steps": 2}
    generate(pack, [CIRCLE, "two squares"], out=tmp_path / "together", **asked)
    monkeypatch.setattr(painting, "AT_ONCE", 1)
    monkeypatch.setattr(painting, "PATIENCE_S", 0.0)
    generate(pack, [CIRCLE, "two squares"], out=tmp_path / "apart", **asked)
    for name in ("0000.png", "0001.png", "0002.png", "0003.png", "index.json"):
        assert (tmp_path / "apart" / name).read_bytes() == (
            tmp_path / "together" / name
        ).read_bytes()


@pytest.mark.parametrize("size", [(32, 64), (1000, 100)], ids=str)
def test_pictures_that_the_model_does_not_take_are_refused(pack, standin, tmp_path, size):
    Image.new("RGB", size).save(tmp_path / "in.png")
    (tmp_path / "text.png").write_text("no picture")
    for name, message in (("in.png", "sides of at least 64"), ("text.png", "no readable picture"),
                          ("none.png", "no such file")):  # fmt: skip
        with pytest.raises(BadInput, match=message):
            generate(pack, [CIRCLE], out=tmp_path / "a.png", pipeline=str(standin),
                     images=[tmp_path / name])  # fmt: skip


def test_the_command_line(pack, standin, tmp_path, run):
    (tmp_path / "p.txt").write_text("two squares\n")
    done = run("generate", str(pack), "-p", CIRCLE, "--prompts", str(tmp_path / "p.txt"),
               "--pipeline", str(standin), "-o", str(tmp_path / "out"), "--json")  # fmt: skip
    assert done.code == 0
    data = json.loads(done.out)
    assert [p["prompt"] for p in data["pictures"]] == [CIRCLE, "two squares"]
    assert data["runner"] == "torch"
    done = run("generate", str(pack), "-o", str(tmp_path / "x.png"))
    assert (done.code, "Missing option '-p'" in done.err) == (2, True)
