"""One file under the original names: dense as ComfyUI reads it, and packed for our node."""

from __future__ import annotations

import json
import shutil

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from bonsai_quant import convert, diff, export, inspect, plan, verify
from bonsai_quant.core.errors import BonsaiError, Unsupported
from bonsai_quant.core.schema import BITS, PackedLayer
from bonsai_quant.packs.find import look
from bonsai_quant.packs.formats import FORMATS
from bonsai_quant.packs.read import open_pack
from tests.support import forge, models
from tests.support.watching import Watching

QKV = "double_blocks.0.img_attn.qkv.weight"
LAST_NORM = "final_layer.adaLN_modulation.1.weight"
BOTH = ("comfyui", "comfyui-packed")


def file_of(packs, name):
    return packs.out / name / FORMATS[name].weights_path(packs.mode)


def dense(packs) -> dict[str, np.ndarray]:
    """The weights of `unpacked` under the original names, as bf16."""
    found = load_file(packs.out / "unpacked/transformer/diffusion_pytorch_model.safetensors")
    return models.to_original(found)


def decoded(codes: np.ndarray, scales: np.ndarray, bits: int) -> np.ndarray:
    """Codes and scales as the format's page describes them -> float32 weights."""
    planes = [codes >> shift & (1 << bits) - 1 for shift in range(0, 8, bits)]
    levels = np.stack(planes, -1).reshape(len(codes), -1).astype(np.float32)
    signs = levels - 1 if bits == 2 else 2 * levels - 1
    return signs * np.repeat(scales.astype(np.float32), 128, axis=1)


def bits_of(array: np.ndarray) -> np.ndarray:
    return array.view(np.uint16)


# ---- what is written ----


def test_the_dense_file_is_the_original_model_to_the_bit(packs):
    found, expected = load_file(file_of(packs, "comfyui")), dense(packs)
    assert found.keys() == expected.keys()
    for name, w in expected.items():
        assert found[name].shape == w.shape
        assert np.array_equal(bits_of(found[name]), bits_of(w)), name


def test_the_packed_file_decodes_to_the_dense_one(packs):
    found, expected = load_file(file_of(packs, "comfyui-packed")), dense(packs)
    packed = [n.removesuffix("_scale") for n in found if n.endswith("_scale")]
    assert len(packed) == 12
    assert QKV in packed
    assert found.keys() == expected.keys() | {f"{n}_scale" for n in packed}
    for name, w in expected.items():
        stored = found[name]
        if name in packed:
            stored = decoded(stored, found[f"{name}_scale"], BITS[packs.mode])
        assert np.array_equal(stored.astype(np.float32), w.astype(np.float32)), name


def test_the_packed_file_says_what_it_is(packs):
    with safe_open(file_of(packs, "comfyui-packed"), "numpy") as file:
        about = json.loads(file.metadata()["bonsai_quant"])
    assert about == {"base": "flux2", "format": "comfyui-packed", "format_version": 1,
                     "group_size": 128, "mode": packs.mode}  # fmt: skip


def test_golden_bytes_of_a_group():
    """Codes 0, 1, 2, 1 are the byte 0x64; 2^-6 is 0x3C80 in bf16."""
    codes = np.full((1, 32), 0x64, np.uint8)
    layer = PackedLayer("proj_out", (1, 128), 2, codes, np.array([[2.0**-6]], np.float16))
    stored, scales = FORMATS["comfyui-packed"].encode(layer)
    assert stored.tobytes() == bytes([0x64]) * 32
    assert scales.tolist() == [[0x3C80]]


def test_sizes_of_the_real_model():
    from tests.conversion.test_plan import KLEIN_4B, _layout, detected

    model = detected(KLEIN_4B)
    sizes = {(m, f): _layout(model, m, f).data_bytes for m in BITS for f in BOTH}
    packed, kept = 3_680_501_760, 195_042_816
    assert sizes["ternary", "comfyui"] == sizes["binary", "comfyui"] == 2 * (packed + kept)
    scales = 2 * packed // 128
    assert sizes["ternary", "comfyui-packed"] == packed // 4 + scales + 2 * kept
    assert sizes["binary", "comfyui-packed"] == packed // 8 + scales + 2 * kept


@pytest.mark.parametrize("name", BOTH)
def test_a_plan_names_the_file_and_its_size(packs, name):
    planned = {f.path: f.size for f in plan(str(packs.source), mode=packs.mode, formats=name).files}
    path = file_of(packs, name)
    assert planned[path.name] == path.stat().st_size


def test_an_interrupted_run_ends_in_the_same_bytes(packs, tmp_path):
    left = [12]

    def interrupt(n):
        left[0] -= n
        if left[0] <= 0:
            raise KeyboardInterrupt

    settings = {"mode": packs.mode, "formats": BOTH, "out": tmp_path / "out", "threads": 1}
    with pytest.raises(KeyboardInterrupt):
        convert(str(packs.source), **settings, progress=Watching(interrupt))
    convert(str(packs.source), **settings, resume=True)
    for name in BOTH:
        path = file_of(packs, name)
        assert (tmp_path / "out" / name / path.name).read_bytes() == path.read_bytes()


def test_cards_say_where_the_file_goes(packs):
    for name in BOTH:
        card = (packs.out / name / "README.md").read_text()
        assert "models/diffusion_models" in card
        assert "\n- comfyui\n" in card
        assert ("keeps the weights packed" in card) == (name == "comfyui-packed")


# ---- what is read back ----


@pytest.mark.parametrize("name", BOTH)
def test_the_pack_is_the_same_as_in_other_formats(packs, name):
    assert open_pack(packs.out / name).info == open_pack(packs.out / "bonsai").info
    assert diff(packs.out / name, packs.out / "bonsai").same
    assert not [c for c in verify(packs.out / name).checks if c.status == "failed"]
    (seen,) = inspect(packs.out / name)
    assert dict(seen.facts)["format"] == name


@pytest.mark.parametrize("name", BOTH)
def test_a_pack_without_its_manifest_is_read_by_its_weights(packs, name, tmp_path):
    folder = shutil.copytree(packs.out / name, tmp_path / name)
    forge.orphan(folder)
    assert look(folder).format == name
    assert open_pack(folder).info.mode == packs.mode
    assert diff(folder, packs.out / "bonsai").same


@pytest.mark.parametrize("name", BOTH)
def test_other_formats_come_back_from_it_to_the_byte(packs, name, tmp_path):
    export(packs.out / name, format="bonsai", out=tmp_path / "bonsai")
    made = (tmp_path / "bonsai/model.safetensors").read_bytes()
    assert made == (packs.out / "bonsai/model.safetensors").read_bytes()


def test_the_dense_file_converted_again_is_the_same_pack(packs, tmp_path):
    convert(str(file_of(packs, "comfyui")), mode=packs.mode, formats="bonsai", out=tmp_path / "out")
    made = (tmp_path / "out/bonsai/model.safetensors").read_bytes()
    assert made == (packs.out / "bonsai/model.safetensors").read_bytes()


def test_a_flipped_code_is_found_where_it_is(packs, tmp_path):
    folder = shutil.copytree(packs.out / "comfyui-packed", tmp_path / "packed")
    name, at = f"{QKV}[128:256]", 128 * BITS[packs.mode] // 8 * 3 + 5
    held = open_pack(folder).stored[name]
    code = held.path.read_bytes()[held.offset + at] & 3
    legal = {"binary": (1, 1, 1, 1), "ternary": (1, 3, 2)}[
        packs.mode
    ]  # to another code of the mode
    forge.flip(folder, name, at, legal[code])
    forge.resign(folder)
    (change,) = [c for c in diff(folder, packs.out / "bonsai").layers if not c.same]
    assert (change.name, change.flipped) == ("transformer_blocks.0.attn.to_k.weight", 1)


# ---- what cannot be held ----

RECIPE = "mode: {}\nlayers:\n  - {{match: 'transformer_blocks.0.attn.{}', action: keep}}\n"


@pytest.fixture
def recipe(packs, tmp_path):
    """Makes a recipe that keeps some layers of the first block."""

    def write(match):
        (tmp_path / "recipe.yaml").write_text(RECIPE.format(packs.mode, match))
        return tmp_path / "recipe.yaml"

    return write


def test_q_k_and_v_are_of_one_type_in_the_packed_file(packs, recipe):
    with pytest.raises(Unsupported, match=f"both in {QKV}") as e:
        plan(str(packs.source), recipe=recipe("to_k"), formats="comfyui-packed")
    assert "to_k" in str(e.value)


@pytest.mark.parametrize(("match", "formats"), [("to_k", "comfyui"), ("to_[qkv]", BOTH)])
def test_kept_layers_are_dense(packs, recipe, match, formats, tmp_path):
    formats = ["bonsai", *([formats] if isinstance(formats, str) else formats)]
    convert(str(packs.source), recipe=recipe(match), formats=formats, out=tmp_path / "out")
    assert not [c for c in verify(tmp_path / "out").checks if c.status == "failed"]
    for name in formats:
        assert load_file(next((tmp_path / "out" / name).glob("*.safetensors")))
        assert diff(tmp_path / "out" / name, tmp_path / "out/bonsai").same


def rename(old, new):
    return lambda t: {n.replace(old, new): w for n, w in t.items()}


def put(name, make):
    return lambda t: t | {name: make(t.get(name))}


def drop(name):
    return lambda t: {n: w for n, w in t.items() if n != name}


SCALE = f"{QKV}_scale"
ODD = {
    "no scales": (drop(SCALE), r"expected \[384, 128\]"),
    "no codes": (drop(QKV), "lacks codes or scales"),
    "scales of a tensor that is not there": (
        put("double_blocks.7.img_attn.qkv.weight_scale", lambda _: np.ones((3, 1), np.float32)),
        "lacks codes or scales",
    ),
    "scales of a kept tensor": (
        put("img_in.weight_scale", lambda _: np.ones((128, 1), ml_dtypes.bfloat16)),
        "mixes code widths",
    ),
    "fewer rows of scales": (put(SCALE, lambda s: s[:-1]), "with as many rows"),
    "scales of one axis": (put(SCALE, lambda s: s.reshape(-1)), "of two axes"),
    "scales in float32": (put(SCALE, lambda s: s.astype(np.float32)), "expected BF16"),
    "a column of codes more": (
        put(QKV, lambda c: np.concatenate([c, c[:, :1]], 1)), "mixes code widths",
    ),
    "signed codes": (put(QKV, lambda c: c.view(np.int8)), "expected U8"),
    "another tensor": (put("lora.weight", lambda _: np.ones((2, 2), np.float32)), "no known use"),
    "diffusers names": (rename("img_in", "x_embedder"), "mixes diffusers names"),
    "the prefix of checkpoints": (
        lambda t: {f"model.diffusion_model.{n}": w for n, w in t.items()}, "is missing",
    ),
    "a norm missing": (drop("double_blocks.0.img_attn.norm.key_norm.scale"), "lacks 1 tensors"),
}  # fmt: skip


@pytest.mark.parametrize("case", ODD)
def test_files_that_are_no_such_pack_are_refused(packs, case, tmp_path):
    change, message = ODD[case]
    folder = shutil.copytree(packs.out / "comfyui-packed", tmp_path / "packed")
    path = folder / file_of(packs, "comfyui-packed").name
    tensors = load_file(path)
    tensors = change(tensors)
    save_file({n: np.ascontiguousarray(w) for n, w in tensors.items()}, path)
    forge.orphan(folder)
    with pytest.raises(BonsaiError, match=message) as e:
        open_pack(folder)
    assert path.name in str(e.value)
    assert e.value.hint


def test_a_dense_file_under_diffusers_names_is_refused(packs, tmp_path):
    folder = shutil.copytree(packs.out / "comfyui", tmp_path / "dense")
    source = packs.out / "unpacked/transformer/diffusion_pytorch_model.safetensors"
    shutil.copy(source, folder / file_of(packs, "comfyui").name)
    with pytest.raises(BonsaiError, match="has diffusers names"):
        open_pack(folder)
