"""The gguf format, against the gguf package and diffusers."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bonsai_quant import convert, diff, plan, verify
from bonsai_quant.core.errors import BonsaiError, Unsupported
from bonsai_quant.core.schema import PackedLayer
from bonsai_quant.packs.formats import FORMATS
from bonsai_quant.packs.inspect import inspect
from bonsai_quant.packs.read import open_pack
from bonsai_quant.storage.containers.gguf import KINDS
from tests.support import forge, models
from tests.support.ggufs import finish, foreign
from tests.support.watching import Watching

gguf = pytest.importorskip("gguf")

FILE = "diffusion-model-q1_0.gguf"
UNPACKED = "unpacked/transformer/diffusion_pytorch_model.safetensors"
QKV = "double_blocks.0.img_attn.qkv.weight"


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory):
    """The tiny checkpoint in binary, as gguf and what it is held against."""
    out = tmp_path_factory.mktemp("gguf") / "out"
    convert(str(tiny), mode="binary", formats="bonsai,unpacked,gguf", out=out)
    return out


@pytest.fixture
def folder(made, tmp_path):
    """A copy of the gguf pack, to be damaged."""
    return shutil.copytree(made / "gguf", tmp_path / "gguf")


def dequantized(tensor) -> np.ndarray:
    """A tensor of the package's reader as float32, its axes in numpy's order."""
    if tensor.tensor_type == gguf.GGMLQuantizationType.F32:
        return np.array(tensor.data)
    if tensor.tensor_type == gguf.GGMLQuantizationType.BF16:
        return gguf.dequantize(tensor.data, tensor.tensor_type)
    # The package knows the size of a Q1_0 block and not its meaning: fp16 d, then bits, 1 for +d.
    assert tensor.tensor_type == gguf.GGMLQuantizationType.Q1_0
    blocks = tensor.data.reshape(len(tensor.data), -1, 18)
    d = blocks[..., :2].copy().view(np.float16).astype(np.float32)
    bits = np.unpackbits(blocks[..., 2:], axis=-1, bitorder="little")
    return np.where(bits == 1, d, -d).reshape(len(tensor.data), -1)


def reader(out):
    """The package's, on the gguf pack of a conversion."""
    return gguf.GGUFReader(out / "gguf" / FILE)


def write(path, tensors) -> None:
    """A file by the package's writer. tensors: name -> data and type."""
    writer = gguf.GGUFWriter(path, "flux")
    writer.add_name("flux2")
    writer.add_custom_alignment(32)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q1_0)
    for name, (data, kind) in tensors.items():
        writer.add_tensor(name, np.array(data), raw_dtype=kind)
    finish(writer)


def original(out) -> dict[str, np.ndarray]:
    """All tensors of it as float32, under the names they have there."""
    return {t.name: dequantized(t) for t in reader(out).tensors}


# ---- what is written ----


def test_the_packages_reader_finds_the_original_model(made):
    dense = {n: w.astype(np.float32) for n, w in load_file(made / UNPACKED).items()}
    expected, found = models.to_original(dense), original(made)
    assert found.keys() == expected.keys()
    for name, w in expected.items():
        assert np.array_equal(found[name].view(np.uint32), w.view(np.uint32)), name


@pytest.mark.heavy
def test_diffusers_reads_its_weights_as_the_original_model(made, tmp_path):
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    save_file(original(made), tmp_path / "original.safetensors")
    loaded = diffusers.Flux2Transformer2DModel.from_single_file(
        str(tmp_path / "original.safetensors"),
        config=str(made / "unpacked" / "transformer"),
        torch_dtype=torch.float32,
    )
    state, dense = loaded.state_dict(), load_file(made / UNPACKED)
    assert state.keys() == dense.keys()
    for name, w in dense.items():
        assert np.array_equal(state[name].numpy(), w.astype(np.float32)), name


def test_its_weights_converted_again_are_the_same_pack(made, tmp_path):
    save_file(original(made), tmp_path / "original.safetensors")
    again = convert(str(tmp_path / "original.safetensors"), mode="binary", formats="gguf,bonsai",
                    out=tmp_path / "again")  # fmt: skip
    assert again.manifests["gguf"].measured.lossless
    for path in (f"gguf/{FILE}", "bonsai/model.safetensors"):
        assert (tmp_path / "again" / path).read_bytes() == (made / path).read_bytes()


def test_every_byte_is_the_packages_writers(made, tmp_path):
    tensors = {t.name: (t.data, t.tensor_type) for t in reader(made).tensors}
    write(tmp_path / FILE, dict(sorted(tensors.items())))
    assert (tmp_path / FILE).read_bytes() == (made / "gguf" / FILE).read_bytes()


def test_types_of_the_real_model_and_its_names_fit_ggml():
    from tests.conversion.test_plan import KLEIN_4B, _layout, detected

    layout = _layout(detected(KLEIN_4B), "binary", "gguf")
    ((_, header), *_) = layout.frames({})
    assert b"double_blocks.4.txt_attn.norm.query_norm.scale" in header
    wide = {s.name: s.dtype for s in layout.specs if s.dtype != "U8"}
    assert set(wide.values()) == {"BF16", "F32"}
    assert {n for n, d in wide.items() if d == "F32"} == {n for n in wide if "_norm" in n}
    assert sum(d == "F32" for d in wide.values()) == 60


def test_golden_bytes_of_one_block():
    """Scale 2^-6 is 0x2400; weights 0, 1 and 9 are +d."""
    codes = np.zeros((1, 16), np.uint8)
    codes[0, :2] = 0b11, 0b10
    layer = PackedLayer("proj_out", (1, 128), 1, codes, np.array([[2.0**-6]], np.float16))
    (block,) = FORMATS["gguf"].encode(layer)
    assert block.tobytes() == bytes([0x00, 0x24, 0b11, 0b10]) + bytes(14)


def test_the_table_of_types_is_ggmls():
    """The package does not know Q2_0 yet, which has the next number."""
    theirs = {t.name: (int(t), *size) for t, size in gguf.GGML_QUANT_SIZES.items()}
    assert theirs.keys() - KINDS.keys() == {"Q8_1", "Q8_K"}
    theirs.setdefault("Q2_0", (42, 64, 18))
    for name, kind in KINDS.items():
        assert tuple(kind) == theirs[name], name


def test_an_interrupted_run_ends_in_the_same_bytes(tiny, made, tmp_path):
    left = [12]

    def interrupt(n):
        left[0] -= n
        if left[0] <= 0:
            raise KeyboardInterrupt

    out, formats = tmp_path / "out", "bonsai,gguf"
    with pytest.raises(KeyboardInterrupt):
        convert(
            str(tiny), mode="binary", formats=formats, out=out, threads=1,
            progress=Watching(interrupt),
        )  # fmt: skip
    assert not out.exists()
    convert(str(tiny), mode="binary", formats=formats, out=out, resume=True)
    assert (out / "gguf" / FILE).read_bytes() == (made / "gguf" / FILE).read_bytes()


# ---- what cannot be held ----


RECIPE = "mode: binary\nlayers:\n  - {{match: '{}', action: keep}}\n"


def test_q_k_and_v_are_of_one_type(tiny, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format("transformer_blocks.0.attn.to_k"))
    with pytest.raises(Unsupported, match=f"both in {QKV}") as e:
        plan(str(tiny), recipe=recipe, formats="gguf")
    assert "to_k" in str(e.value)


def test_kept_q_k_and_v_are_one_dense_tensor(tiny, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format("transformer_blocks.0.attn.to_[qkv]"))
    convert(str(tiny), recipe=recipe, formats="bonsai,gguf", out=tmp_path / "out")
    assert not [c for c in verify(tmp_path / "out").checks if c.status == "failed"]
    kinds = {t.name: t.tensor_type.name for t in reader(tmp_path / "out").tensors}
    assert (kinds[QKV], kinds[QKV.replace("img", "txt")]) == ("BF16", "Q1_0")


# ---- reading packs back ----


def test_the_pack_is_the_same_as_in_other_formats(made):
    one, two = open_pack(made / "gguf"), open_pack(made / "bonsai")
    assert one.info == two.info
    assert diff(made / "gguf", made / "bonsai").same
    for t in one.info.kept:
        assert np.array_equal(one.kept(t).view(np.uint16), two.kept(t).view(np.uint16)), t.name


def test_a_flipped_code_and_a_bad_scale_are_found(folder, made):
    name = f"{QKV}[128:256]"
    forge.flip(folder, name, 18 * 3 + 5)
    forge.resign(folder)
    (change,) = [c for c in diff(folder, made / "gguf").layers if not c.same]
    assert (change.name, change.flipped) == ("transformer_blocks.0.attn.to_k.weight", 1)
    forge.flip(folder, name, 18 * 3 + 1, 0x80)
    forge.resign(folder)
    (failed,) = [c for c in verify(folder).checks if c.status == "failed"]
    assert failed.level == "codes"
    assert "transformer_blocks.0.attn.to_k.weight: row 3, group 0: scale -" in failed.detail


def test_the_last_norm_changes_its_halves(made):
    """(shift, scale) there, (scale, shift) in diffusers."""
    pack = open_pack(made / "gguf")
    (tensor,) = [t for t in pack.info.kept if t.name == "norm_out.linear.weight"]
    stored = original(made)["final_layer.adaLN_modulation.1.weight"]
    assert np.array_equal(np.roll(stored, len(stored) // 2, axis=0), pack.kept(tensor))
    assert not np.array_equal(stored, pack.kept(tensor))


def test_inspect_lists_packs_and_bare_files(made, tmp_path):
    (pack,) = inspect(made / "gguf")
    assert (pack.kind, dict(pack.facts)["mode"]) == ("pack", "binary")
    (bare,) = inspect(made / "gguf" / FILE)
    assert (bare.kind, dict(bare.facts)["dtypes"]) == ("gguf", "9 BF16, 8 F32, 12 Q1_0")
    (other,) = inspect(foreign(tmp_path / "other.gguf"))
    facts = dict(other.facts)
    assert (facts["architecture"], facts["dtypes"]) == ("other", "1 F16, 1 F32, 1 Q4_0, 1 TQ2_0")


def test_a_file_of_another_model_is_no_pack(folder, run):
    foreign(folder / FILE)
    (folder / "manifest.json").unlink()
    with pytest.raises(Unsupported, match="is F16"):
        open_pack(folder)
    assert "is F16" in run("verify", folder).out


def rename(name):
    """One tensor under the name that diffusers has for img_in."""
    return lambda tensors: {n.replace(name, "x_embedder.weight"): t for n, t in tensors.items()}


def retype(name, kind):
    """One tensor as another type makes it."""
    kind = gguf.GGMLQuantizationType[kind]

    def change(tensors):
        values = np.ones((3, 128) if name == QKV else 128, np.float32)
        return tensors | {name: (gguf.quants.quantize(values, kind), kind)}

    return change


NORM = "double_blocks.0.img_attn.norm.key_norm.scale"
ODD = {
    "a tensor less": (lambda t: {n: t[n] for n in t if n != NORM}, "lacks 1 tensors", 3),
    "a tensor more": (lambda t: t | {"more": t[NORM]}, "no known use: more", 3),
    "a diffusers name": (rename("img_in.weight"), "mixes", 3),
    "a norm in 16 bits": (retype(NORM, "BF16"), "is BF16, expected F32", 3),
    "a norm in 8 bits": (retype(NORM, "Q8_0"), "is Q8_0; a binary pack holds Q1_0", 4),
    "a norm of packed bits": (lambda t: t | {NORM: packed_norm()}, "is Q1_0, expected F32", 3),
    "q, k and v in 8 bits": (retype(QKV, "Q8_0"), "is Q8_0", 4),
    "q, k and v too small": (retype(QKV, "BF16"), "has shape [[]3, 128[]], expected", 3),
    "nothing packed": (lambda t: {n: dense(t[n]) for n in t}, "holds no packed layer", 3),
}


def packed_norm():
    return np.zeros(18, np.uint8), gguf.GGMLQuantizationType.Q1_0


def dense(tensor):
    data, kind = tensor
    if kind != gguf.GGMLQuantizationType.Q1_0:
        return tensor
    shape = gguf.quant_shape_from_byte_shape(data.shape, kind)
    return np.zeros((*shape[:-1], 2 * shape[-1]), np.uint8), gguf.GGMLQuantizationType.BF16


@pytest.mark.parametrize("case", ODD)
def test_files_that_are_no_such_pack_are_refused(case, made, folder):
    change, reason, code = ODD[case]
    write(folder / FILE, change({t.name: (t.data, t.tensor_type) for t in reader(made).tensors}))
    with pytest.raises(BonsaiError, match=reason) as e:
        open_pack(folder)
    assert e.value.exit_code == code
    assert FILE in str(e.value)
