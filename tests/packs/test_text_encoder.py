"""The text encoder of an sdnq deployment: the layers that are read, and what is stored of them."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bonsai_quant import convert, export, plan
from bonsai_quant.core.errors import BadInput, Unsupported
from bonsai_quant.core.schema import TensorSpec
from bonsai_quant.packs.deployment.scheme import SDNQ, SDNQ_GROUP
from bonsai_quant.packs.pipeline import locate
from bonsai_quant.runners import open_runner
from bonsai_quant.runners.four_bits import four_bits
from tests.support import warm

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
    """Its sdnq deployment; beside it lie the dense weights of the same pack."""
    out = tmp_path_factory.mktemp("made") / "out"
    convert(str(deep), formats="sdnq,unpacked", out=out, **MODE)
    return out / "sdnq"


def stored(folder) -> dict[str, np.ndarray]:
    """All tensors of a folder's files."""
    return {n: w for p in folder.glob("*.safetensors") for n, w in load_file(p).items()}


def test_layers_behind_the_last_that_is_read_are_left_out(made):
    said = json.loads((made / FOLDER / "config.json").read_text())
    assert said["num_hidden_layers"] == len(said["layer_types"]) == 28
    assert sorted(p.name for p in (made / FOLDER).glob("model*")) == ["model.safetensors"]
    ours = stored(made / FOLDER)
    assert {int(n.split(".")[2]) for n in ours if ".layers." in n} == set(range(28))


def test_linears_of_the_layers_are_codes_and_the_rest_stays(made, deep):
    ours, theirs = stored(made / FOLDER), stored(deep / FOLDER)
    settings = json.loads((made / FOLDER / "config.json").read_text())["quantization_config"]
    assert settings["modules_to_not_convert"] == ["lm_head.weight", "model.embed_tokens.weight"]
    assert settings["weights_dtype"] == "uint4"
    codes = [n for n in ours if n.endswith("proj.weight")]
    assert len(codes) == 28 * 7
    for name in codes:
        w, module = theirs[name].astype(np.float32), name.removesuffix(".weight")
        digits = np.stack([ours[name] & 15, ours[name] >> 4], -1).reshape(len(w), -1)
        groups = digits.reshape(len(w), -1, settings["group_size"])
        scale, zero = (
            ours[f"{module}.{end}"].astype(np.float32) for end in ("scale", "zero_point")
        )
        decoded = (groups * scale + zero).reshape(w.shape)
        assert np.square(decoded - w).sum() < 0.006 * np.square(w).sum()
    for name in set(ours) & set(theirs) - set(codes):
        assert np.array_equal(ours[name], theirs[name])
    assert not {n for n in ours if "embed" in n} - {"model.embed_tokens.weight"}


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
from diffusers import Flux2KleinPipeline, Flux2Transformer2DModel
from sdnq.utils import get_sdnq_params
whole, packed = (Flux2KleinPipeline.from_pretrained(f, torch_dtype=torch.float32)
                 for f in sys.argv[1:3])
dense = Flux2Transformer2DModel.from_pretrained(sys.argv[3], torch_dtype=torch.float32)
assert whole.text_encoder.config.num_hidden_layers == 36
assert packed.text_encoder.config.num_hidden_layers == 28
weights = dict(whole.text_encoder.named_parameters())
for name, module in packed.text_encoder.named_modules():
    if hasattr(module, "sdnq_dequantizer"):
        assert module.weight.dtype == torch.uint8
        decoded = module.sdnq_dequantizer(**get_sdnq_params(module))
        weights.pop(f"{name}.weight").data.copy_(decoded)
assert not any("layers.27." in n for n in weights if "proj" in n)
pictures, states = [], []
for encoder, transformer in ((packed.text_encoder, packed.transformer),
                             (whole.text_encoder, dense)):
    packed.text_encoder, packed.transformer = encoder, transformer
    noise = torch.Generator().manual_seed(0)
    states.append(packed.encode_prompt("a red circle", max_sequence_length=20)[0])
    pictures.append(packed(prompt="a red circle", height=64, width=64, num_inference_steps=1,
                           guidance_scale=1.0, generator=noise, output_type="pt").images)
assert pictures[0].std() > 0
assert torch.equal(*pictures)
torch.save(states[0].detach(), sys.argv[4])
"""


@pytest.mark.heavy
def test_stock_diffusers_paints_what_decoded_weights_and_all_layers_paint(made, deep, tmp_path):
    pytest.importorskip("sdnq")
    import torch

    dense = made.parent / "unpacked/transformer"
    (tmp_path / "compare.py").write_text(COMPARE)
    process = warm.Process(
        str(tmp_path / "compare.py"),
        [deep, made, dense, tmp_path / "states"],
        env=os.environ | {"SDNQ_USE_TORCH_COMPILE": "0"},
    )
    _, err = process.communicate()
    assert process.returncode == 0, err
    theirs = torch.load(tmp_path / "states", weights_only=True).numpy()
    for backend in ("torch", "mlx"):
        ours = open_runner(locate(str(made)), backend).encode(("a red circle",), 20)
        assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()


def test_the_codes_stay_near_the_original(made, deep):
    prompts = ("a red circle", "two blue crosses left of a small square")
    a, b = (open_runner(locate(str(p)), "torch").encode(prompts, 20) for p in (made, deep))
    assert 1e-3 < np.linalg.norm(a - b) / np.linalg.norm(b) < 0.3


@pytest.mark.parametrize("change", [
    {"weights_dtype": "int4"},
    {"group_size": 48},
    {"group_size": None},
    {"use_svd": True},
    {"modules_dtype_dict": {"uint8": ["model.layers.0."]}},
    {"quant_method": "fp8"},
])  # fmt: skip
def test_other_settings_than_ours_are_refused(made, tmp_path, change):
    folder = shutil.copytree(made / FOLDER, tmp_path / FOLDER)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] |= change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(Unsupported, match="is quantized as"):
        four_bits(folder)


@pytest.mark.parametrize(("name", "words"), [
    ("model.layers.3.mlp.up_proj.zero_point", "lacks model.layers.3.mlp.up_proj"),
    ("model.layers.3.mlp.up_proj.weight", "lacks model.layers.3.mlp.up_proj"),
    ("model.norm.weight", "lacks model.norm"),
])  # fmt: skip
def test_a_file_that_lacks_something_is_refused(made, tmp_path, name, words):
    pack = shutil.copytree(made, tmp_path / "pack")
    path = pack / FOLDER / "model.safetensors"
    tensors = load_file(path)
    tensors.pop(name)
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(BadInput, match=words):
        open_runner(locate(str(pack)), "torch").encode(("a red circle",), 20)


def test_it_lends_its_text_encoder_to_no_other_format(made, tmp_path):
    with pytest.raises(Unsupported, match="text encoder: is quantized already"):
        export(made, format="mlx", out=tmp_path / "out", pipeline=str(made))


def test_rows_of_one_group_have_scales_without_groups():
    name = "model.layers.0.mlp.up_proj"
    shapes = [s.shape for s in SDNQ.specs(TensorSpec(f"{name}.weight", "BF16", (6, SDNQ_GROUP)))]
    assert shapes == [(3 * SDNQ_GROUP,), (6, 1), (6, 1)]
    odd = TensorSpec(f"{name}.weight", "F16", (6, SDNQ_GROUP + 1))
    assert [(s.dtype, s.shape) for s in SDNQ.specs(odd)] == [("BF16", odd.shape)]


def test_klein_4b_takes_a_third():
    from bonsai_quant.core.schema import StoredTensor
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
    assert round(SDNQ.layout(short).size / 1e9, 2) == 2.54
    assert round(WHOLE.layout(short).size / 1e9, 2) == 6.43
    assert short.shortened(NEEDED_LAYERS) is short
