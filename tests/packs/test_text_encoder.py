"""The text encoder of an sdnq deployment: the layers that are read, and what is stored of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bonsai_quant import convert, plan

from .conftest import MODE

LAYERS = 36
FOLDER = "text_encoder"


@pytest.fixture(scope="module")
def deep(standin, tmp_path_factory):
    """The stand-in with 36 layers in its text encoder, in two shards, as Klein's has."""
    source = tmp_path_factory.mktemp("deep") / "source"
    shutil.copytree(standin, source)
    path = source / FOLDER / "model.safetensors"
    tensors = load_file(path)
    path.unlink()
    for name, w in list(tensors.items()):
        parts = name.split(".")
        if parts[1] == "layers" and int(parts[2]) < LAYERS - 28:
            tensors[".".join(["model", "layers", str(28 + int(parts[2])), *parts[3:]])] = w
    where = {}
    for k in range(2):
        shard = {n: tensors[n] for n in sorted(tensors)[k::2]}
        save_file(shard, path.with_name(f"model-{k}.safetensors"), {"format": "pt"})
        where |= dict.fromkeys(shard, f"model-{k}.safetensors")
    index = {"metadata": {}, "weight_map": where}
    path.with_name("model.safetensors.index.json").write_text(json.dumps(index))
    config = path.with_name("config.json")
    said = json.loads(config.read_text()) | {"num_hidden_layers": LAYERS}
    said["layer_types"] = ["full_attention"] * LAYERS
    config.write_text(json.dumps(said))
    return source


@pytest.fixture(scope="module")
def made(deep, tmp_path_factory):
    """Its sdnq deployment."""
    out = tmp_path_factory.mktemp("made") / "out"
    convert(str(deep), formats="sdnq", out=out, **MODE)
    return out / "sdnq"


def test_layers_behind_the_last_that_is_read_are_left_out(made, deep):
    said = json.loads((made / FOLDER / "config.json").read_text())
    assert said["num_hidden_layers"] == len(said["layer_types"]) == 28
    assert sorted(p.name for p in (made / FOLDER).glob("model*")) == ["model.safetensors"]
    ours = load_file(made / FOLDER / "model.safetensors")
    layers = {int(n.split(".")[2]) for n in ours if ".layers." in n}
    assert layers == set(range(28))
    theirs = {n: w for p in (deep / FOLDER).glob("*.safetensors") for n, w in load_file(p).items()}
    for name, w in ours.items():
        assert np.array_equal(w, theirs[name])


def test_the_source_is_named_whole(made, deep):
    manifest = json.loads((made / "manifest.json").read_text())
    named = {p["name"] for p in manifest["source"]["parts"]}
    assert {f"{FOLDER}/{p.name}" for p in (deep / FOLDER).iterdir()} <= named


def test_the_plan_knows_every_byte(made, deep):
    planned = {f.path: f.size for f in plan(str(deep), formats="sdnq", **MODE).files if f.exact}
    assert f"{FOLDER}/model.safetensors" in planned
    assert planned == {path: (made / path).stat().st_size for path in planned}


COMPARE = """
import sys, torch, sdnq
from diffusers import Flux2KleinPipeline
pictures = []
whole, short = (Flux2KleinPipeline.from_pretrained(f, torch_dtype=torch.float32)
                for f in sys.argv[1:])
assert short.text_encoder.config.num_hidden_layers == 28
for encoder in (short.text_encoder, whole.text_encoder):
    short.text_encoder = encoder
    noise = torch.Generator().manual_seed(0)
    pictures.append(short(prompt="a red circle", height=64, width=64, num_inference_steps=1,
                          guidance_scale=1.0, generator=noise, output_type="pt").images)
assert pictures[0].std() > 0
assert torch.equal(*pictures)
"""


@pytest.mark.heavy
def test_stock_diffusers_paints_the_same_without_them(made, deep):
    pytest.importorskip("sdnq")
    ended = subprocess.run(
        [sys.executable, "-c", COMPARE, deep, made],
        text=True, capture_output=True, env=os.environ | {"SDNQ_USE_TORCH_COMPILE": "0"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr


def test_klein_4b_saves_a_fifth():
    from bonsai_quant.core.schema import StoredTensor, TensorSpec
    from bonsai_quant.packs.deployment.scheme import WHOLE
    from bonsai_quant.sources.components import NEEDED_LAYERS, TextEncoder
    from bonsai_quant.sources.components.text_encoder import shapes
    from tools.make_parts import QWEN3_4B

    stored = tuple(
        StoredTensor(TensorSpec(n, "BF16", s), "file", 0)
        for n, s in sorted(shapes(QWEN3_4B).items())
    )
    whole = TextEncoder("folder", QWEN3_4B, stored, ())
    short = whole.shortened(NEEDED_LAYERS)
    assert {t.spec.name for t in (*short.tensors, *short.unused)} == {t.spec.name for t in stored}
    assert round(WHOLE.layout(whole).size / 1e9, 2) == 8.04
    assert round(WHOLE.layout(short).size / 1e9, 2) == 6.43
    assert short.shortened(NEEDED_LAYERS) is short
