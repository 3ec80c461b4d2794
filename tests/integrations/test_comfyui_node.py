"""The ComfyUI node without ComfyUI: files, decoding, LoRAs beside layers, finding packs."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_torch

from bonsai_quant.packs.formats import FORMATS
from integrations.comfyui import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS, pack_file, places
from integrations.comfyui.decode import bits_of, decode
from integrations.comfyui.low_rank import side_paths
from tests.support.fakehub import FakeHub, use

pytestmark = pytest.mark.heavy

QKV = "double_blocks.0.img_attn.qkv.weight"


def file_of(packs, name="comfyui-packed"):
    return packs.out / name / FORMATS[name].weights_path(packs.mode)


# ---- reading ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_layer_decodes_to_the_dense_file(packs, dtype):
    found, dense = pack_file.read(str(file_of(packs))), load_torch(file_of(packs, "comfyui"))
    assert {n.removesuffix("_scale") for n in found} == set(dense)
    for name, w in dense.items():
        scales = found.get(f"{name}_scale")
        if scales is None:
            assert torch.equal(found[name], w), name
        else:
            assert bits_of(found[name], scales) == (2 if packs.mode == "ternary" else 1)
            assert torch.equal(decode(found[name], scales, dtype), w.to(dtype)), name


def test_some_rows_decode_as_they_do_among_all(packs):
    found = pack_file.read(str(file_of(packs)))
    codes, scales = found[QKV], found[f"{QKV}_scale"]
    whole = decode(codes, scales, torch.float32)
    assert torch.equal(decode(codes[5:9], scales[5:9], torch.float32), whole[5:9])


def scale(value):
    def change(tensors):
        tensors[f"{QKV}_scale"][2, 0] = value

    return change


def codes(change):
    return lambda tensors: tensors.update({QKV: change(tensors[QKV])})


DAMAGE = {
    "code 3": (codes(lambda c: c | 0xC0), "the code 3"),
    "one axis": (codes(lambda c: c.reshape(-1)), "has codes"),
    "a column more": (codes(lambda c: np.concatenate([c, c[:, :1]], 1)), "has codes"),
    "a row less": (codes(lambda c: c[1:].copy()), "has codes"),
    "signed codes": (codes(lambda c: c.view(np.int8)), "is torch.int8"),
    "no codes": (lambda t: t.pop(QKV), "tensor double_blocks"),
    "scale 0": (scale(0), "no positive number"),
    "scale below 0": (scale(-1), "no positive number"),
    "scale nan": (scale(np.nan), "no positive number"),
    "scale inf": (scale(np.inf), "no positive number"),
}


def again(packs, tmp_path, change=lambda tensors: None, metadata=None):
    """The packed file with something else in it."""
    path = file_of(packs)
    with safe_open(path, "numpy") as file:
        about = file.metadata()
    tensors = {n: np.array(w) for n, w in load_file(path).items()}
    change(tensors)
    save_file(tensors, tmp_path / path.name, about if metadata is None else metadata)
    return str(tmp_path / path.name)


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_files_are_refused_with_the_tensor(packs, case, tmp_path):
    if (packs.mode, case) == ("binary", "code 3"):
        pytest.skip("every byte is eight binary codes")
    change, message = DAMAGE[case]
    with pytest.raises(pack_file.PackError, match=message) as e:
        pack_file.read(again(packs, tmp_path, change))
    assert "double_blocks.0.img_attn.qkv" in str(e.value)
    assert "make it again" in str(e.value)


def metadata(**changed):
    about = {"format": "comfyui-packed", "format_version": 1, "group_size": 128}
    return {"bonsai_quant": json.dumps(about | changed)}


@pytest.mark.parametrize(("about", "message"), [
    ({}, "not in the format"),
    ({"format": "pt"}, "not in the format"),
    ({"bonsai_quant": "["}, "not in the format"),
    ({"bonsai_quant": "[]"}, "not in the format"),
    (metadata(format="bonsai"), "not in the format"),
    (metadata(format_version=2), "reads version 1"),
    (metadata(group_size=64), "groups of 64"),
])  # fmt: skip
def test_other_files_are_refused_with_what_to_do(packs, about, message, tmp_path):
    with pytest.raises(pack_file.PackError, match=message):
        pack_file.read(again(packs, tmp_path, metadata=about))


def test_a_file_that_is_cut_off_is_refused(packs, tmp_path):
    (tmp_path / "cut.safetensors").write_bytes(file_of(packs).read_bytes()[:-1])
    with pytest.raises(pack_file.PackError, match="cannot be read"):
        pack_file.read(str(tmp_path / "cut.safetensors"))


# ---- LoRAs beside a layer ----


def lora(rows=48, alpha=4.0, middle=None, magnitudes=None, reshape=None):
    draw = torch.Generator().manual_seed(0)
    up, down = (torch.randn(*s, generator=draw) for s in ((rows, 4), (4, 128)))
    return SimpleNamespace(name="lora", weights=(up, down, alpha, middle, magnitudes, reshape))


def test_a_side_path_is_the_merged_weight():
    draw = torch.Generator().manual_seed(1)
    inputs, weight = torch.randn(2, 5, 128, generator=draw), torch.randn(48, 128, generator=draw)
    whole, part = lora(), lora(rows=16, alpha=None)
    patches = [(0.8, whole, 1.0, None, None), (-0.5, part, 1.0, (0, 32, 16), None)]
    merged = weight.double() + 0.8 * (whole.weights[0] @ whole.weights[1]).double()
    merged[32:] -= 0.5 * (part.weights[0] @ part.weights[1]).double()
    output = inputs @ weight.T
    for path in side_paths(patches, 48):
        path.add_to(output, inputs)
    torch.testing.assert_close(output.double(), inputs.double() @ merged.T, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("patch", [
    (1.0, lora(magnitudes=torch.ones(48)), 1.0, None, None),
    (1.0, lora(middle=torch.ones(4, 4)), 1.0, None, None),
    (1.0, lora(reshape=[64, 128]), 1.0, None, None),
    (1.0, lora(), 0.5, None, None),
    (1.0, lora(), 1.0, None, torch.abs),
    (1.0, lora(), 1.0, (1, 0, 64), None),
    (1.0, lora(rows=47), 1.0, None, None),
    (1.0, SimpleNamespace(name="lokr", weights=()), 1.0, None, None),
    (1.0, ("diff", (torch.ones(48, 128),)), 1.0, None, None),
])  # fmt: skip
def test_what_a_side_path_cannot_do_is_left_to_the_whole_weight(patch):
    assert side_paths([(1.0, lora(), 1.0, None, None), patch], 48) is None


# ---- finding packs ----


def test_a_file_and_a_folder_are_taken_as_they_are(packs, tmp_path):
    path = file_of(packs)
    assert places.packed_file(str(path), tmp_path) == path
    assert places.packed_file(f" {path.parent} ", tmp_path) == path
    assert not list(tmp_path.iterdir())


def test_a_pack_in_another_format_is_exported_once(packs, tmp_path):
    made = places.packed_file(str(packs.out / "bonsai"), tmp_path / "made")
    assert made.read_bytes() == file_of(packs).read_bytes()
    first = made.stat().st_mtime_ns
    assert places.packed_file(str(packs.out / "bonsai"), tmp_path / "made") == made
    assert made.stat().st_mtime_ns == first


def test_without_bonsai_quant_it_says_what_to_do(packs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bonsai_quant", None)
    with pytest.raises(pack_file.PackError, match="Install the package bonsai-quant"):
        places.packed_file(str(packs.out / "bonsai"), tmp_path)


@pytest.mark.parametrize("pack", ["", " ", "no-such-file.safetensors", "a/b/c", "/no/such/folder"])
def test_what_is_no_place_is_refused(pack, tmp_path):
    with pytest.raises(pack_file.PackError, match="no file, no folder, and no Hub id"):
        places.packed_file(pack, tmp_path)


def test_a_folder_of_no_pack_is_refused(tmp_path):
    with pytest.raises(pack_file.PackError, match="cannot be exported"):
        places.packed_file(str(tmp_path), tmp_path / "made")


def test_of_two_packed_files_none_is_chosen(packs, tmp_path):
    for mode in ("ternary", "binary"):
        (tmp_path / f"diffusion-model-{mode}-packed.safetensors").touch()
    with pytest.raises(pack_file.PackError, match="holds 2 packed files"):
        places.packed_file(str(tmp_path), tmp_path / "made")


def test_of_a_repo_only_the_packed_file_is_fetched(packs, tmp_path, cache, monkeypatch):
    files = {p.name: p.read_bytes() for p in file_of(packs).parent.iterdir() if p.is_file()}
    with FakeHub() as hub:
        use(hub.url, monkeypatch)
        hub.commit(files)
        found = places.packed_file(hub.name, tmp_path)
        assert found.read_bytes() == files[found.name]
        fetched = [r for r in hub.requests if "resolve" in r]
    assert fetched
    assert all(r.endswith(found.name) for r in fetched)


# ---- the workflow, and the nodes' names ----


def test_the_workflow_is_whole():
    """Its nodes and links against ComfyUI itself: test_comfyui_engine.py."""
    workflow = json.loads((places.Path(places.__file__).parent / "workflow.json").read_text())
    links = [v for n in workflow.values() for v in n["inputs"].values() if isinstance(v, list)]
    assert links
    assert all(origin in workflow for origin, _ in links)
    ours = [n for n in workflow.values() if n["class_type"] in NODE_CLASS_MAPPINGS]
    assert [n["inputs"]["name"] for n in ours] == [
        FORMATS["comfyui-packed"].weights_path("ternary")
    ]
    assert NODE_CLASS_MAPPINGS.keys() == NODE_DISPLAY_NAME_MAPPINGS.keys()
