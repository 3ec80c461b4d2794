"""Moments and codes are those of the whole model, and guided packs are made from them."""

from __future__ import annotations

import importlib
import json
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from diffusers import Flux2Transformer2DModel
from safetensors.numpy import load_file, save_file

from bonsai_quant import calibrate, convert, plan, recover, verify
from bonsai_quant.cli.main import cli
from bonsai_quant.conversion.calibration import open_calibration
from bonsai_quant.conversion.calibration.record import CODES, MOMENTS, RECORD
from bonsai_quant.core.errors import BadInput, EnvironmentFault, OutputExists, UsageError
from bonsai_quant.packs.pipeline import locate
from bonsai_quant.packs.read import open_pack
from bonsai_quant.runners.picture_settings import read_benchmark
from bonsai_quant.runners.runner import start
from bonsai_quant.runners.sampling import levels
from bonsai_quant.runners.torch.dense import dense_transformer
from bonsai_quant.runners.torch.runner import TorchRunner
from bonsai_quant.storage import fs
from bonsai_quant.training.recipe import load_recovery
from bonsai_quant.training.trajectories.denoiser import Denoiser, walk
from tests.support.watching import Watching

from .conftest import LINEARS, N_PROMPTS

pytestmark = pytest.mark.heavy

MODES = ("ternary", "binary")


@pytest.fixture(scope="module")
def plain(standin, few, tmp_path_factory):
    """A calibration in full precision."""
    out = tmp_path_factory.mktemp("plain") / "out"
    return calibrate(str(standin), out=out, prompts=str(few), n_prompts=N_PROMPTS, at_once=2).out


@pytest.fixture(scope="module", params=MODES)
def behind(request, standin, few, tmp_path_factory):
    """A calibration behind rounded blocks, and the pack that it leads to."""
    folder = tmp_path_factory.mktemp(request.param)
    made = calibrate(
        str(standin), mode=request.param, solver="gptq", out=folder / "cal", prompts=str(few),
        n_prompts=N_PROMPTS, at_once=2,
    )  # fmt: skip
    convert(
        str(standin), mode=request.param, solver="gptq", calibration=made.out, formats="bonsai",
        out=folder / "packs",
    )  # fmt: skip
    return request.param, made.out, folder / "packs"


def inputs_of(model, linear: str, standin, few) -> torch.Tensor:
    """What one linear reads, when the whole of `model` runs on the full-precision model's states:
    [tokens, in] float64."""
    pipeline = locate(str(standin))
    pictures, runner = read_benchmark(pipeline.folder).settings, TorchRunner(pipeline)
    prompts = few.read_text().split("\n")[:N_PROMPTS]
    captions = torch.from_numpy(runner.encode(prompts, pictures.max_sequence_length))
    noise = start(range(N_PROMPTS), pictures, pipeline.channels)
    _, rows, columns, _ = noise.shape
    words = pictures.max_sequence_length
    sigmas = levels(rows * columns, pictures.num_inference_steps)
    original = Flux2Transformer2DModel.from_pretrained(
        standin / "transformer", torch_dtype=torch.float32
    )
    whole = Denoiser(original, rows, columns, words)
    states = walk(whole, torch.from_numpy(noise).flatten(1, 2), captions, sigmas)[:-1]
    caught = []
    hook = model.get_submodule(linear).register_forward_pre_hook(
        lambda _, x: caught.append(x[0].flatten(0, -2).double())
    )
    with torch.no_grad():
        for z, sigma in zip(states, sigmas, strict=False):
            level = torch.full((N_PROMPTS,), sigma)
            Denoiser(model, rows, columns, words)(z, level, captions)
    hook.remove()
    return torch.cat(caught)


@pytest.mark.parametrize("linear", LINEARS)
def test_moments_are_those_of_the_whole_model(plain, standin, few, linear):
    model = Flux2Transformer2DModel.from_pretrained(
        standin / "transformer", torch_dtype=torch.float32
    )
    mine = load_file(plain / MOMENTS)[linear]
    x = inputs_of(model, linear, standin, few)
    theirs = (x.T @ x / len(x)).numpy()
    np.testing.assert_allclose(mine, theirs, atol=1e-4 * np.abs(theirs).max())


def test_codes_keep_the_outputs_of_the_whole_model(behind, weighed, standin, few):
    """The error that is recorded is that of whole models on the weighed tokens."""
    _, calibration, packs = behind
    layers, weights = open_calibration(calibration).record.layers, weighed[1]
    original = Flux2Transformer2DModel.from_pretrained(
        standin / "transformer", torch_dtype=torch.float32
    )
    rounded = dense_transformer(open_pack(packs / "bonsai"))
    for linear in LINEARS:
        y, x = (inputs_of(m, linear, standin, few) for m in (original, rounded))
        old, new = (m.get_submodule(linear).weight.detach().double() for m in (original, rounded))
        w = weights[linear, 0].flatten().double()[:, None]
        error = (w * (y @ old.T - x @ new.T).square()).sum() / (w * (y @ old.T).square()).sum()
        assert layers[linear].error < 0.5 * layers[linear].nearest
        # Recorded from a few random combinations of the tokens.
        assert 0.5 * error < layers[linear].error < 2 * error


def test_codes_are_packed_as_they_are(behind):
    _, calibration, packs = behind
    pack, stored = open_pack(packs / "bonsai"), load_file(calibration / CODES)
    for tensor in pack.info.packed:
        layer = pack.layer(tensor)
        np.testing.assert_array_equal(layer.codes, stored[f"{tensor.linear}.codes"])
        np.testing.assert_array_equal(layer.scales, stored[f"{tensor.linear}.scales"])


@pytest.mark.parametrize("what", ["codes", "scales", "probes"])
def test_what_does_not_give_the_recorded_error_is_refused(behind, standin, tmp_path, what):
    """Tensors changed on purpose, and the record's hash with them."""
    mode, calibration, _ = behind
    folder = shutil.copytree(calibration, tmp_path / "cal")
    tensors = load_file(folder / CODES)
    name = f"transformer_blocks.0.attn.to_q.{what}"
    # A half of the rows: a code changed here and there is not told from another order of sums.
    half = len(tensors[name]) // 2 or 1
    tensors[name][:half] = tensors[name][::-1][:half] if what != "probes" else 2.0
    save_file(tensors, folder / CODES)
    record = json.loads((folder / RECORD).read_text())
    record["size"], record["sha256"] = fs.sha256_file(folder / CODES)
    (folder / RECORD).write_text(json.dumps(record))
    with pytest.raises(BadInput, match=r"to_q give an error of outputs of .* was recorded"):
        convert(str(standin), mode=mode, solver="gptq", calibration=folder,
                out=tmp_path / "out", formats="bonsai")  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_an_impossible_calibration_of_codes(behind, standin, tmp_path):
    mode, calibration, _ = behind
    folder = shutil.copytree(calibration, tmp_path / "cal")
    record = json.loads((folder / RECORD).read_text())
    record["layers"].pop("transformer_blocks.0.attn.to_q")
    (folder / RECORD).write_text(json.dumps(record))
    with pytest.raises(BadInput, match="has no codes for transformer_blocks.0.attn.to_q"):
        plan(str(standin), mode=mode, solver="gptq", calibration=folder)


def test_the_pack_says_what_guided_it(behind):
    _, calibration, packs = behind
    manifest = open_pack(packs / "bonsai").manifest
    assert manifest.calibration == fs.sha256_file(calibration / RECORD)[1]
    assert manifest.recipe["solver"] == "gptq"
    assert not verify(packs).failed


def test_a_guided_pack_is_solved_again_with_its_calibration(behind, plain, standin):
    _, calibration, packs = behind
    (check,) = (c for c in verify(packs, against=str(standin)).checks if " = " in c.subject)
    assert (check.status, "--calibration" in check.detail) == ("not run", True)
    again = verify(packs, against=str(standin), calibration=str(calibration))
    (check,) = (c for c in again.checks if " = " in c.subject)
    assert (check.status, "quantized again" in check.detail) == ("passed", True)
    (check,) = (
        c
        for c in verify(packs, against=str(standin), calibration=str(plain)).checks
        if " = " in c.subject
    )
    assert (check.status, "not the one" in check.detail) == ("failed", True)


def test_a_layer_that_shares_its_input_shares_its_moments(plain):
    record = json.loads((plain / RECORD).read_text())
    inputs = record["inputs"]
    assert inputs["transformer_blocks.0.attn.to_v"] == "transformer_blocks.0.attn.to_q"
    assert inputs["transformer_blocks.0.attn.add_k_proj"] == "transformer_blocks.0.attn.add_q_proj"
    assert set(load_file(plain / MOMENTS)) == set(inputs.values())
    assert record["states"] == 4 * N_PROMPTS


def test_an_interrupted_calibration_goes_on(standin, few, tmp_path, monkeypatch):
    arguments = {"mode": "ternary", "solver": "gptq", "prompts": str(few), "n_prompts": 2}
    whole = calibrate(str(standin), out=tmp_path / "whole", **arguments).out

    def stop(*_):
        if watching.phases[-1][0] == "solving" and watching.done[-1] == 9:
            raise KeyboardInterrupt

    watching = Watching(stop)
    with pytest.raises(KeyboardInterrupt):
        calibrate(str(standin), out=tmp_path / "part", progress=watching, **arguments)
    assert not (tmp_path / "part").exists()
    with pytest.raises(OutputExists, match=r"an interrupted run lies there: \d+ of \d+ tensors"):
        calibrate(str(standin), out=tmp_path / "part", **arguments)
    again = Watching()
    resumed = calibrate(
        str(standin), out=tmp_path / "part", resume=True, progress=again, **arguments
    ).out
    assert [label for label, *_ in again.phases] == ["solving"]  # nothing was painted again
    for name in (CODES, RECORD):
        assert (resumed / name).read_bytes() == (whole / name).read_bytes()


def test_an_earlier_result_is_replaced_only_when_asked_to(standin, few, tmp_path):
    arguments = {"prompts": str(few), "n_prompts": 1, "out": tmp_path / "cal"}
    calibrate(str(standin), **arguments)
    with pytest.raises(OutputExists):
        calibrate(str(standin), **arguments)
    calibrate(str(standin), overwrite=True, **arguments)
    (tmp_path / "cal" / "notes.txt").write_text("mine")
    with pytest.raises(OutputExists, match="holds other files"):
        calibrate(str(standin), overwrite=True, **arguments)


def test_convert_says_what_it_needs(standin, plain, tmp_path):
    with pytest.raises(UsageError, match="'gptq' needs a calibration") as e:
        plan(str(standin), mode="ternary", solver="gptq")
    assert "bonsai-quant calibrate" in e.value.hint
    with pytest.raises(UsageError, match="'exact' uses no calibration"):
        plan(str(standin), mode="ternary", calibration=plain)
    with pytest.raises(BadInput, match="no such file"):
        plan(str(standin), mode="ternary", solver="gptq", calibration=tmp_path)


def test_convert_calibrates_first_when_nobody_has(standin, behind, tmp_path, monkeypatch):
    """The command line's convert, with a calibration that was made before in the place of one."""
    mode, calibration, packs = behind
    asked = []

    def made(source, *, out, **arguments):
        asked.append((source, out.name, arguments["solver"], arguments["mode"]))
        shutil.copytree(calibration, out)

    module = importlib.import_module("bonsai_quant.training.calibrate.calibrate")
    monkeypatch.setattr(module, "calibrate", made)
    words = ["convert", str(standin), "--mode", mode, "--solver", "gptq", "-f", "bonsai", "-o"]
    for name in ("out", "again"):
        folder = tmp_path / name
        if name == "again":  # a calibration that is there is used
            shutil.copytree(calibration, tmp_path / "again-calibration")
        done = CliRunner().invoke(cli, [*words, str(folder)])
        assert done.exit_code == 0, done.output
        mine, theirs = (p / "bonsai" / "model.safetensors" for p in (folder, packs))
        assert mine.read_bytes() == theirs.read_bytes()
    assert asked == [(str(standin), "out-calibration", "gptq", mode)]


def test_it_says_what_it_will_take_and_refuses_what_does_not_fit(
    standin, few, tmp_path, monkeypatch, caplog
):
    arguments = {"mode": "ternary", "solver": "gptq", "prompts": str(few), "n_prompts": 2}
    monkeypatch.setattr("bonsai_quant.training.calibrate.announce.available", lambda: 100 << 20)
    with pytest.raises(EnvironmentFault, match=r"about .* are needed \(program.*100 MB|105 MB"):
        calibrate(str(standin), out=tmp_path / "cal", **arguments)
    assert not (tmp_path / "cal").exists()
    assert "8 states of 16 + 20 tokens: about 0:0" in caplog.text


def test_a_calibration_of_the_other_mode(behind, standin):
    mode, calibration, _ = behind
    other = MODES[MODES.index(mode) - 1]
    with pytest.raises(UsageError, match=f"made with the mode {mode}"):
        plan(str(standin), mode=other, solver="gptq", calibration=calibration)


def test_a_calibration_of_another_model(standin, plain, tmp_path):
    with pytest.raises(BadInput, match="has .* for .* is needed"):
        plan("mini-klein", mode="ternary", solver="weighted", calibration=plain)
    from tests.support import pipelines

    twin = pipelines.save_pipeline(tmp_path / "twin", seed=5, heads=1, blocks=(1, 2))
    with pytest.raises(BadInput, match="was made with another source"):
        convert(str(twin), mode="ternary", solver="weighted", calibration=plain,
                out=tmp_path / "out", formats="bonsai")  # fmt: skip
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("what", ["flipped", "cut", "record"])
def test_a_damaged_calibration(standin, plain, tmp_path, what):
    folder = tmp_path / "cal"
    shutil.copytree(plain, folder)
    path = folder / (RECORD if what == "record" else MOMENTS)
    data = bytearray(path.read_bytes())
    if what == "flipped":
        data[-1] ^= 64
    path.write_bytes(data[:-4] if what == "cut" else data.replace(b'"states": 12', b'"states": x'))
    with pytest.raises(BadInput):
        plan(str(standin), mode="ternary", solver="weighted", calibration=folder)


def test_moments_cannot_guide_gptq(plain, standin):
    with pytest.raises(UsageError, match="gptq solves every layer behind") as e:
        plan(str(standin), mode="ternary", solver="gptq", calibration=plain)
    assert "--mode ternary --solver gptq" in e.value.hint


def test_a_record_with_the_former_name_of_states_is_read(plain, tmp_path):
    folder = shutil.copytree(plain, tmp_path / "cal")
    text = (folder / RECORD).read_text()
    (folder / RECORD).write_text(text.replace('"states": 12', '"samples": 12'))
    opened = open_calibration(folder)
    assert opened.record == open_calibration(plain).record
    assert opened.record.states == 4 * N_PROMPTS


def test_moments_behind_rounded_layers_of_an_earlier_version(plain, tmp_path):
    folder = shutil.copytree(plain, tmp_path / "cal")
    record = json.loads((folder / RECORD).read_text())
    (folder / RECORD).write_text(json.dumps(record | {"mode": "ternary", "solver": "gptq"}))
    with pytest.raises(UsageError, match="earlier version") as e:
        open_calibration(folder)
    assert e.value.hint == "calibrate again"


OLD_RECIPE = """
mode: ternary
solver: gptq
calibration:
  samples: 256
  at_once: 64
distillation:
  steps: 200
  exam: 50
"""


def test_a_recipe_with_former_names_is_read(tmp_path):
    old, new, both = (tmp_path / f"{name}.yaml" for name in ("old", "new", "both"))
    old.write_text(OLD_RECIPE)
    new.write_text(OLD_RECIPE.replace("samples", "n_prompts").replace("exam", "validate_every"))
    recovery = load_recovery(old, None)
    assert recovery == load_recovery(new, None)
    assert (recovery.calibration.n_prompts, recovery.distillation.validate_every) == (256, 50)
    both.write_text(OLD_RECIPE + "  validate_every: 50\n")
    with pytest.raises(UsageError, match="distillation: exam"):
        load_recovery(both, None)


def test_recover_rounds_by_a_calibrated_recipe(standin, few, tmp_path):
    recipe = tmp_path / "r.yaml"
    asked = {"n_prompts": 2, "at_once": 4}
    recipe.write_text(json.dumps({"mode": "binary", "solver": "gptq", "calibration": asked}))
    made = recover(
        str(standin), recipe=recipe, out=tmp_path / "packs", prompts=str(few), formats="bonsai"
    )
    assert made.between == (tmp_path / "packs-calibration",)
    assert made.packs.manifests["bonsai"].recipe["solver"] == "gptq"


def test_recover_goes_all_the_way(standin, few, tmp_path):
    recipe = tmp_path / "r.yaml"
    train = {"steps": 2, "batch": 4, "at_once": 4, "validate_every": 2, "checkpointing": False}
    said = {"mode": "ternary", "solver": "gptq", "calibration": {"n_prompts": 2},
            "distillation": train}  # fmt: skip
    recipe.write_text(json.dumps(said))
    made = recover(
        str(standin), recipe=recipe, out=tmp_path / "packs", prompts=str(few), formats="bonsai"
    )
    names = [p.name for p in made.between]
    assert names == ["packs-calibration", "packs-rounded", "packs-trained"]
    assert made.packs.manifests["bonsai"].measured.lossless
    record = json.loads((tmp_path / "packs-trained" / "distillation.json").read_text())
    assert record["start"]
