"""The torch runner paints what stock diffusers paints, from any format, and fetches nothing."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from bonsai_quant import convert
from bonsai_quant.core import requirements as needs
from bonsai_quant.core.errors import (
    BadInput,
    BonsaiError,
    EnvironmentFault,
    Unsupported,
    UsageError,
)
from bonsai_quant.packs.pipeline import locate
from bonsai_quant.packs.read import open_pack
from bonsai_quant.runners.torch.dense import dense_transformer, open_pipeline, paint_dense

PROMPTS = ("a red circle", "two blue crosses", "a small square on a dark background") * 2
SEEDS = (1, 2, 3, 4, 5, 6)
FORMATS = ("bonsai", "mlx", "gemlite", "unpacked")


pytestmark = pytest.mark.usefixtures("no_network")


@pytest.fixture(scope="module")
def made(standin, tmp_path_factory):
    """All formats of the stand-in, in ternary; the manifest cannot name their source."""
    out = tmp_path_factory.mktemp("made") / "out"
    convert(str(standin), mode="ternary", formats=FORMATS, out=out, transformer_only=True)
    return out


def test_a_pipeline_paints_as_stock_diffusers_does(standin, settings):
    import torch
    from diffusers import Flux2KleinPipeline

    pipe = Flux2KleinPipeline.from_pretrained(standin, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    (image,) = pipe(
        prompt="a red circle", height=64, width=64, num_inference_steps=4, guidance_scale=1.0,
        max_sequence_length=20, generator=torch.Generator().manual_seed(7),
    ).images  # fmt: skip
    (mine,) = paint_dense(open_pipeline(standin), ["a red circle"], [7], settings)
    assert (mine.shape, mine.dtype) == ((64, 64, 3), np.uint8)
    assert distance(mine, np.asarray(image)) <= 1


def distance(a, b):
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def test_a_picture_depends_on_its_prompt_and_seed_alone(standin, settings):
    pipe = open_pipeline(standin)
    whole = paint_dense(pipe, PROMPTS, SEEDS, settings)
    for batch in (1, 4):
        assert distance(paint_dense(pipe, PROMPTS, SEEDS, settings, batch=batch), whole) <= 1
    turned = paint_dense(pipe, PROMPTS[::-1], SEEDS[::-1], settings)
    assert distance(turned[::-1], whole) <= 1
    other = paint_dense(pipe, PROMPTS, SEEDS[::-1], settings)
    assert distance(other, whole) > 30
    same_noise = paint_dense(pipe, PROMPTS[:3], [1, 1, 1], settings)
    assert distance(same_noise[0], same_noise[1]) > 1


def test_no_pictures_are_an_empty_array(settings):
    assert paint_dense(None, [], [], settings).shape == (0, 64, 64, 3)


def test_every_format_paints_the_same(made, standin, settings):
    pictures = [
        paint_dense(open_pipeline(made / name, pipeline=str(standin)), PROMPTS, SEEDS, settings)
        for name in FORMATS
    ]
    for p in pictures[1:]:
        assert np.array_equal(p, pictures[0])
    source = paint_dense(open_pipeline(standin), PROMPTS, SEEDS, settings)
    assert not np.array_equal(source, pictures[0])


def test_the_decoded_weights_are_those_of_the_dense_export(made):
    from safetensors.torch import load_file

    path = made / "unpacked/transformer/diffusion_pytorch_model.safetensors"
    dense = {k: v.float() for k, v in load_file(path).items()}
    for name in ("bonsai", "gemlite"):
        state = dense_transformer(open_pack(made / name)).state_dict()
        assert set(state) == set(dense)
        assert all(bool((state[k] == dense[k]).all()) for k in dense)


def test_the_first_format_of_a_folder_is_bonsai(made, standin):
    pipeline = locate(str(made), pipeline=str(standin))
    assert pipeline.pack.format.name == "bonsai"
    assert pipeline.folder == standin


def test_other_parts_come_from_the_source_that_the_manifest_names(shipped, tmp_path):
    convert("mini-klein", mode="binary", formats="bonsai", out=tmp_path / "out")
    assert locate(str(tmp_path / "out")).folder == shipped
    assert locate(str(tmp_path / "out"), spare="/nowhere").folder == shipped


def test_a_pack_whose_source_has_no_name_needs_a_pipeline(made, standin):
    with pytest.raises(UsageError, match="pass --pipeline"):
        open_pipeline(made / "mlx")
    assert locate(str(made), spare=str(standin)).folder == standin


def test_a_source_on_the_hub_is_taken_from_the_cache_or_not_at_all(
    made, standin, tmp_path, monkeypatch
):
    from huggingface_hub import constants

    sha = "0123456789" * 4
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    shutil.copytree(made / "bonsai", tmp_path / "pack")
    manifest = json.loads((tmp_path / "pack/manifest.json").read_text())
    manifest["source"] |= {"id": "someone/klein", "revision": sha}
    (tmp_path / "pack/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(EnvironmentFault, match=r"hf download someone/klein.*pass --pipeline"):
        open_pipeline(tmp_path / "pack")
    snapshot = tmp_path / "hub/models--someone--klein/snapshots" / sha
    (snapshot / "transformer").mkdir(parents=True)  # what `convert` fetches is not enough
    with pytest.raises(EnvironmentFault, match="not on this machine"):
        open_pipeline(tmp_path / "pack")
    shutil.copytree(standin, snapshot, dirs_exist_ok=True)
    assert locate(str(tmp_path / "pack")).folder == snapshot
    assert open_pipeline(f"someone/klein@{sha}") is not None


@pytest.mark.parametrize("name", ["mini-klein/", "../data", "/etc", "x.safetensors", "a/../b"])
def test_a_manifest_names_no_path(made, standin, tmp_path, monkeypatch, name):
    shutil.copytree(made / "bonsai", tmp_path / "pack")
    manifest = json.loads((tmp_path / "pack/manifest.json").read_text())
    manifest["source"]["id"] = name
    (tmp_path / "pack/manifest.json").write_text(json.dumps(manifest))
    monkeypatch.chdir(standin.parent)
    with pytest.raises(UsageError, match="no pack, pipeline folder or Hub id"):
        locate(str(tmp_path / "pack"))


def test_loading_and_painting_print_nothing(standin, settings, capfd):
    from diffusers.utils import logging

    assert logging.is_progress_bar_enabled()
    paint_dense(open_pipeline(standin), PROMPTS[:1], SEEDS[:1], settings)
    assert capfd.readouterr() == ("", "")
    assert logging.is_progress_bar_enabled()


def test_missing_packages_are_named_with_the_command(monkeypatch, standin):
    monkeypatch.setattr(needs, "installed", lambda name: None if name == "diffusers" else "1")
    with pytest.raises(EnvironmentFault, match=r"diffusers not installed.*pip install.*\[run\]"):
        open_pipeline(standin)


def edit_index(folder, **changes):
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(("changes", "kind"), [
    ({"_class_name": "StableDiffusionPipeline"}, Unsupported),
    ({"vae": ["os", "system"]}, Unsupported),
    ({"vae": ["diffusers", "AutoencoderKL"]}, Unsupported),
    ({"tokenizer": ["pipeline", "Evil"]}, Unsupported),
    ({"text_encoder": None}, Unsupported),
])  # fmt: skip
def test_pipelines_of_other_kinds_are_refused(standin, tmp_path, changes, kind):
    shutil.copytree(standin, tmp_path / "p")
    edit_index(tmp_path / "p", **changes)
    with pytest.raises(kind):
        open_pipeline(tmp_path / "p")


@pytest.mark.parametrize("damage", ["no index", "no vae", "short", "pickle", "no words"])
def test_broken_pipelines_are_one_line(standin, tmp_path, damage):
    folder = tmp_path / "p"
    shutil.copytree(standin, folder)
    weights = folder / "vae/diffusion_pytorch_model.safetensors"
    if damage == "no index":
        (folder / "model_index.json").unlink()
    elif damage == "no vae":
        shutil.rmtree(folder / "vae")
    elif damage == "short":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "pickle":
        weights.rename(weights.with_suffix(".bin"))  # would be unpickled, were it allowed
    else:
        (folder / "tokenizer/tokenizer.json").write_text("{}")
    with pytest.raises(BonsaiError) as stop:
        open_pipeline(folder)
    assert stop.type is BadInput
    assert "\n" not in str(stop.value)


def test_places_that_are_nothing(tmp_path, tiny):
    with pytest.raises(UsageError, match="or mini-klein, which comes"):
        open_pipeline("nowhere")
    with pytest.raises(BadInput, match="no model_index.json"):
        open_pipeline(tmp_path)
    with pytest.raises(BadInput, match="no model_index.json"):
        open_pipeline(tiny)  # a transformer alone
