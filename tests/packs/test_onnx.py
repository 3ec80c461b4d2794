"""The onnx format, against the package onnx, and models that are not what a pack calls for."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from bonsai_quant import convert, diff, plan, verify
from bonsai_quant.core.errors import BadInput, BonsaiError, Unsupported
from bonsai_quant.packs.inspect import inspect
from bonsai_quant.packs.read import open_pack
from bonsai_quant.storage.containers.onnx_reader import parse_onnx, read_onnx
from tests.support import forge

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install onnx")

MODEL, WEIGHTS = "model.onnx", "model.onnx.data"
LINEAR = "transformer_blocks.0.attn.to_k"
PRODUCT = f"{LINEAR}.out"
RECIPE = "mode: ternary\nlayers:\n  - {match: 'transformer_blocks.0.attn.to_k', action: ACTION}\n"


@pytest.fixture
def folder(packs, tmp_path):
    """A copy of the onnx pack, to be damaged."""
    return shutil.copytree(packs.out / "onnx", tmp_path / "onnx")


def load(folder):
    """The model as the package reads it, without weights."""
    return onnx.load(folder / MODEL, load_external_data=False)


def weights_of(folder) -> dict[str, np.ndarray]:
    """Every tensor of the pack as float32, decoded from what the package reads."""
    graph = onnx.load(folder / MODEL).graph
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    inputs = {n.output[0].removesuffix(".out"): n.input for n in graph.node
              if n.op_type == "MatMulNBits"}  # fmt: skip
    found = {n: a.astype(np.float32) for n, a in arrays.items() if n.endswith(".weight")}
    for linear, (_, codes, scales, zeros) in inputs.items():
        fields = arrays[codes][..., None] >> np.arange(0, 8, 2) & 3
        zero = arrays[zeros][..., None] >> np.arange(0, 8, 2) & 3
        out, groups = arrays[codes].shape[:2]
        zero = zero.reshape(out, -1)[:, :groups, None]
        levels = (fields.reshape(out, groups, 128) - zero.astype(int)).astype(np.float32)
        scale = arrays[scales.removesuffix(".float")].astype(np.float32)
        found[f"{linear}.weight"] = (levels * scale[..., None]).reshape(out, -1)
    return found


# ---- what is written ----


def test_the_package_finds_a_sound_model(packs):
    onnx.checker.check_model(str(packs.out / "onnx" / MODEL))
    model = load(packs.out / "onnx")
    domains = {d.domain: d.version for d in model.opset_import}
    assert domains == {"": 18, "com.microsoft": 1}
    assert {n.domain for n in model.graph.node} == {"", "com.microsoft"}
    names = [i.name for i in model.graph.input]
    assert names == ["hidden_states", "encoder_hidden_states", "timestep", "img_ids", "txt_ids"]


def test_the_package_finds_the_dense_weights(packs):
    dense = load_file(packs.out / "unpacked/transformer/diffusion_pytorch_model.safetensors")
    found = weights_of(packs.out / "onnx")
    assert found.keys() == dense.keys()
    for name, w in dense.items():
        assert np.array_equal(found[name], w.astype(np.float32)), name


def test_our_reader_finds_what_the_package_finds(packs):
    ours, theirs = read_onnx(packs.out / "onnx" / MODEL), load(packs.out / "onnx")
    assert ours.metadata == {"bonsai_quant.mode": packs.mode}
    for t, u in zip(ours.tensors, theirs.graph.initializer, strict=True):
        assert (t.name, list(t.shape)) == (u.name, list(u.dims))
        assert t.data == (u.raw_data or None)
        place = {e.key: e.value for e in u.external_data}
        if place:
            assert place == {
                "location": WEIGHTS, "offset": str(t.offset), "length": str(t.nbytes),
            }  # fmt: skip
    for n, m in zip(ours.nodes, theirs.graph.node, strict=True):
        assert (n.op, n.domain, n.inputs, n.outputs) == (
            m.op_type, m.domain, tuple(m.input), tuple(m.output),
        )  # fmt: skip
        given = {a.name: onnx.helper.get_attribute_value(a) for a in m.attribute}
        whole = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
        assert n.attributes == {k: v for k, v in whole.items() if not isinstance(v, float)}


def test_the_packages_writer_keeps_every_byte(packs):
    """Fields stand in the order of their numbers, as every writer of messages puts them."""
    data = (packs.out / "onnx" / MODEL).read_bytes()
    assert onnx.load_from_string(data).SerializeToString(deterministic=True) == data


def test_the_plan_knows_every_byte(packs):
    planned = plan(str(packs.source), mode=packs.mode, formats="onnx")
    sizes = {f.path: f.size for f in planned.files if f.exact}
    assert sizes.keys() == {MODEL, WEIGHTS, "config.json"}
    for path, size in sizes.items():
        assert (packs.out / "onnx" / path).stat().st_size == size


@pytest.mark.parametrize("action", ["keep", "binary"])
def test_a_layer_that_is_kept_or_of_another_mode(tiny, tmp_path, action):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.replace("ACTION", action))
    convert(str(tiny), recipe=recipe, formats="bonsai,onnx", out=tmp_path / "out")
    assert not [c for c in verify(tmp_path / "out").checks if c.status == "failed"]
    assert diff(tmp_path / "out/onnx", tmp_path / "out/bonsai").same
    (node,) = [n for n in load(tmp_path / "out/onnx").graph.node if n.output[0] == PRODUCT]
    assert node.op_type == ("MatMul" if action == "keep" else "MatMulNBits")


def test_inspect_lists_packs_and_bare_files(packs):
    (pack,) = inspect(packs.out / "onnx")
    assert (pack.kind, dict(pack.facts)["mode"]) == ("pack", packs.mode)
    (bare,) = inspect(packs.out / "onnx" / MODEL)
    assert bare.kind == "onnx"
    packed = len(open_pack(packs.out / "onnx").info.packed)
    assert f"{packed} MatMulNBits" in dict(bare.facts)["operators"]


# ---- what is refused ----


def tensor(model, name):
    return next(t for t in model.graph.initializer if t.name == name)


def node(model, name=PRODUCT):
    return next(n for n in model.graph.node if n.output[0] == name)


def place(model, key, value, name=f"{LINEAR}.codes"):
    (entry,) = [e for e in tensor(model, name).external_data if e.key == key]
    entry.value = value


def attribute(model, key, value, name=PRODUCT):
    (found,) = [a for a in node(model, name).attribute if a.name == key]
    found.i = value


def zero_point(model):
    zeros = tensor(model, node(model).input[3])
    zeros.raw_data = b"\xaa" * len(zeros.raw_data)


def without(model, name):
    model.graph.initializer.remove(tensor(model, name))


def no_mode(model):
    del model.metadata_props[:]


def function(model):
    model.functions.add().name = "mine"


def swap_inputs(model):
    a, b = (node(model, f"{LINEAR.removesuffix('to_k')}to_{x}.out") for x in "qk")
    a.input[1], b.input[1] = b.input[1], a.input[1]


def epsilon(model):
    (found,) = [a for a in node(model, "norm_out.normed.norm").attribute if a.name == "epsilon"]
    found.f = 1e-5


def more_bits(model):
    model.graph.initializer.add().CopyFrom(onnx.numpy_helper.from_array(np.zeros(3), "more"))


HOSTILE = {
    "another offset": (lambda m: place(m, "offset", "4096"), "starts at byte 4096, expected", 3),
    "an offset past the end": (
        lambda m: place(m, "offset", str(10**12)),
        "starts at byte",
        3,
    ),
    "a negative offset": (lambda m: place(m, "offset", "-4096"), "has the offset '-4096'", 3),
    "a wrong length": (lambda m: place(m, "length", "5"), "has 5 bytes, and its shape takes", 3),
    "a file elsewhere": (lambda m: place(m, "location", "../secret"), "lies in '../secret'", 3),
    "a tensor less": (lambda m: without(m, "x_embedder.weight"), "tensors end at byte", 3),
    "codes less": (lambda m: without(m, f"{LINEAR}.codes"), "starts at byte", 3),
    "other zero points": (zero_point, "has zero points other than 1", 4),
    "4 bits": (lambda m: attribute(m, "bits", 4), "has bits 4, expected 2", 4),
    "blocks of 64": (lambda m: attribute(m, "block_size", 64), "has block_size 64", 4),
    "no mode": (no_mode, "does not say its mode", 4),
    "functions": (function, "functions of its own", 3),
    "codes of another layer": (swap_inputs, "node .*to_q.out differs", 3),
    "another operator": (lambda m: setattr(node(m, "both"), "op_type", "Sum"), "node both", 3),
    "another epsilon": (epsilon, "numbers with a point differ", 3),
    "float64": (more_bits, "is of ONNX's dtype 11", 4),
    "another shape": (lambda m: tensor(m, f"{LINEAR}.scales").dims.append(1), "scales differs", 3),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_models_that_are_no_such_pack_are_refused(case, folder):
    change, reason, code = HOSTILE[case]
    model = load(folder)
    change(model)
    (folder / MODEL).write_bytes(model.SerializeToString(deterministic=True))
    with pytest.raises(BonsaiError, match=reason) as e:
        open_pack(folder)
    assert e.value.exit_code == code
    assert len(str(e.value).splitlines()) == 1
    assert MODEL in str(e.value)


def test_a_config_that_does_not_fit_the_graph_is_refused(folder):
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"rope_theta": 2000', '"rope_theta": 10000'))
    with pytest.raises(BadInput, match=r"tensor rope\.\w+_frequency differs"):
        open_pack(folder)


def test_a_pack_without_its_model_or_its_weights(folder, run):
    (folder / WEIGHTS).rename(folder / "away")
    assert f"{WEIGHTS}: is missing" in run("verify", folder).out
    (folder / "away").rename(folder / WEIGHTS)
    (folder / MODEL).unlink()
    with pytest.raises(BadInput, match="no such file"):
        open_pack(folder)


@pytest.mark.parametrize("more", [-1, 1, 4096])
def test_weights_of_another_size_are_refused(folder, more):
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:more] if more < 0 else data + bytes(more))
    with pytest.raises(BadInput, match=f"is {len(data) + more} bytes long"):
        open_pack(folder)


def test_an_illegal_code_is_found_with_its_place(folder, packs):
    bad = 0b11 if packs.mode == "ternary" else 0b01
    stored = open_pack(folder).stored[f"{LINEAR}.codes"]
    with stored.path.open("r+b") as f:
        f.seek(stored.offset + 32 * 3 + 5)
        f.write(bytes([bad << 2]))
    forge.resign(folder)
    (failed,) = [c for c in verify(folder).checks if c.status == "failed"]
    assert failed.level == "codes"
    assert f"{LINEAR}.codes: row 3, column 21: code {bad}" in failed.detail


def test_a_flipped_code_is_found(folder, packs):
    stored = open_pack(folder).stored[f"{LINEAR}.codes"]
    with stored.path.open("r+b") as f:
        f.seek(stored.offset + 7)
        byte = f.read(1)[0]
        f.seek(stored.offset + 7)
        f.write(bytes([byte & ~3 | (0 if byte & 3 else 2)]))
    forge.resign(folder)
    (change,) = [c for c in diff(folder, packs.out / "onnx").layers if not c.same]
    assert (change.name, change.flipped) == (f"{LINEAR}.weight", 1)


def test_truncated_anywhere_a_model_is_refused(packs):
    path = packs.out / "onnx" / MODEL
    data = path.read_bytes()
    end = len(data) - 120  # the graph is closed there; what follows are versions and the mode
    for size in (*range(0, 400), *range(400, end, 997), end):
        with pytest.raises(BadInput, match="is not an ONNX model") as e:
            parse_onnx(data[:size], path)
        assert str(path) in str(e.value)


def test_other_files_are_named(folder):
    others = {
        b"version https://git-lfs.github.com/spec/v1\n": "a Git LFS pointer",
        b"<!DOCTYPE html>": "a web page",
        b"GGUF\3\0\0\0": "a GGUF file",
    }
    for content, kind in others.items():
        (folder / MODEL).write_bytes(content)
        with pytest.raises(BadInput, match=f"is not an ONNX model but {kind}"):
            open_pack(folder)


def test_a_transformer_that_has_no_graph_is_refused_before_anything_is_read(tiny, tmp_path):
    copy = shutil.copytree(tiny, tmp_path / "transformer")
    config = copy / "config.json"
    text = config.read_text().replace("[32, 32, 32, 32]", "[32, 32]")
    config.write_text(text)
    with pytest.raises(Unsupported, match="axes_dims_rope of even numbers that add up to 128"):
        plan(str(copy), mode="binary", formats="onnx")
