"""The gguf format and its reader, against the gguf package, diffusers and bytes made by hand."""

from __future__ import annotations

import random
import shutil
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bonsai_quant import convert, diff, export, plan, verify
from bonsai_quant.core.errors import BadInput, BonsaiError, Unsupported
from bonsai_quant.core.schema import PackedLayer
from bonsai_quant.packs.formats import FORMATS
from bonsai_quant.packs.inspect import inspect
from bonsai_quant.packs.read import open_pack
from bonsai_quant.storage.containers.gguf import KINDS, GgufTensor
from bonsai_quant.storage.containers.gguf_reader import parse_gguf, read_gguf
from tests.support import forge, models
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


def finish(writer) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


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
    theirs = {t.name: (int(t), *size) for t, size in gguf.GGML_QUANT_SIZES.items()}
    assert theirs.keys() - KINDS.keys() == {"Q8_1", "Q8_K"}
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


@pytest.mark.parametrize("ask", [plan, convert])
def test_ternary_is_refused_before_anything_is_written(tiny, tmp_path, ask):
    more = {} if ask is plan else {"out": tmp_path / "out"}
    with pytest.raises(Unsupported, match="one scale for 256") as e:
        ask(str(tiny), mode="ternary", formats="bonsai,gguf", **more)
    assert e.value.exit_code == 4
    assert "mlx" in e.value.hint
    assert not list(tmp_path.iterdir())


def test_a_ternary_pack_is_not_exported(tiny, tmp_path):
    convert(str(tiny), mode="ternary", formats="bonsai", out=tmp_path / "out")
    with pytest.raises(Unsupported, match="one scale for 256"):
        export(tmp_path / "out", format="gguf", out=tmp_path / "gguf")
    assert not (tmp_path / "gguf").exists()


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


# ---- broken files ----


def foreign(path):
    """A file of another model, made by the package: every kind of metadata, four types."""
    writer = gguf.GGUFWriter(path, "other")
    for width in (8, 16, 32, 64):
        getattr(writer, f"add_uint{width}")(f"a.uint{width}", width)
        getattr(writer, f"add_int{width}")(f"a.int{width}", -width)
    writer.add_float32("a.float32", 0.5)
    writer.add_float64("a.float64", 0.25)
    writer.add_bool("a.bool", True)
    writer.add_custom_alignment(64)
    writer.add_array("words", ["one", "two", "\N{SNOWMAN}"])
    writer.add_array("numbers", [1, 2, 3])
    rng = np.random.default_rng(0)
    for name, kind in (("a", "F32"), ("b.weight", "F16"), ("c", "Q4_0"), ("d", "TQ2_0")):
        shape = (3, 512) if KINDS[kind].weights > 1 else (2, 1, 5)
        kind = gguf.GGMLQuantizationType[kind]
        data = gguf.quants.quantize(rng.standard_normal(shape).astype(np.float32), kind)
        writer.add_tensor(name, data, raw_dtype=kind)
    finish(writer)
    return path


def test_other_files_are_read_as_the_package_reads_them(tmp_path):
    path = foreign(tmp_path / "a.gguf")
    ours, theirs = read_gguf(path), gguf.GGUFReader(path)
    assert len(ours.tensors) == 4
    for t, u in zip(ours.tensors, theirs.tensors, strict=True):
        assert (t.name, t.kind, list(t.shape[::-1])) == (
            u.name,
            u.tensor_type.name,
            u.shape.tolist(),
        )
        assert (t.offset, t.nbytes, t.stored_shape) == (u.data_offset, u.n_bytes, u.data.shape)
    said = {k: f.contents() for k, f in theirs.fields.items() if not k.startswith("GGUF.")}
    assert ours.metadata == {k: v for k, v in said.items() if k not in ("words", "numbers")}


def test_truncated_anywhere_it_is_refused(tmp_path):
    path = foreign(tmp_path / "a.gguf")
    data, start = path.read_bytes(), read_gguf(path).tensors[0].offset
    for size in (*range(start + 80), *range(len(data) - 200, len(data) - 64)):
        with pytest.raises(BadInput) as e:
            parse_gguf(data[:size], size, path)
        assert e.value.exit_code == 3
        assert str(path) in str(e.value)


def test_random_damage_is_refused_or_readable_by_the_package(tmp_path):
    """Each byte of the header changed in turn, and pieces of it replaced by extreme numbers."""
    path = foreign(tmp_path / "a.gguf")
    data, start = path.read_bytes(), read_gguf(path).tensors[0].offset
    rng, accepted = random.Random(0), 0
    damage = [(at, bytes([data[at] ^ 1 << bit])) for at in range(start) for bit in range(8)]
    extreme = [struct.pack("<Q", n) for n in (0, 1, 3, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1)]
    damage += [(rng.randrange(start - 8), rng.choice(extreme)) for _ in range(2000)]
    for at, piece in damage:
        damaged = data[:at] + piece + data[at + len(piece) :]
        try:
            parse_gguf(damaged, len(damaged), path)
        except BonsaiError as e:
            assert e.exit_code in (3, 4), (at, piece)
            assert str(path) in str(e)
            continue
        accepted += 1
        if accepted % 8 == 0:  # the package takes its time
            path.write_bytes(damaged)
            gguf.GGUFReader(path)
    assert accepted > 1000  # names and values may be others


def header(tensors, metadata=(), *, version=3, magic=b"GGUF") -> bytes:
    """tensors: (name, axes, type, offset).  metadata: (key, type, bytes)."""
    text = lambda s: struct.pack("<Q", len(s)) + s  # noqa: E731
    out = magic + struct.pack("<IQQ", version, len(tensors), len(metadata))
    for key, kind, value in metadata:
        out += text(key) + struct.pack("<I", kind) + value
    for name, axes, kind, offset in tensors:
        out += text(name) + struct.pack(f"<I{len(axes)}QIQ", len(axes), *axes, kind, offset)
    return out + bytes(-len(out) % 32)


U32, ARRAY = struct.Struct("<I").pack, struct.Struct("<IQ").pack
TWO = ((b"a", (4, 2), 0, 0), (b"b", (4, 2), 0, 32))
ALIGNMENT = b"general.alignment"
BROKEN = {
    "empty": (b"", 64, "not a GGUF file"),
    "other magic": (header(TWO, magic=b"PK\x03\x04"), 64, "zip archive"),
    "one name twice": (header((TWO[0], (b"a", *TWO[1][1:]))), 64, "stands twice"),
    "overlap": (header((TWO[0], (b"b", (4, 2), 0, 0))), 64, "expected"),
    "hole": (header((TWO[0], (b"b", (4, 2), 0, 64))), 96, "expected"),
    "unaligned": (header((TWO[0], (b"b", (4, 2), 0, 33))), 96, "expected"),
    "no axes": (header(((b"a", (), 0, 0),)), 64, "has 0 axes"),
    "five axes": (header(((b"a", (1,) * 5, 0, 0),)), 64, "has 5 axes"),
    "axis of 0": (header(((b"a", (4, 0), 0, 0),)), 0, "implausible shape"),
    "product above 64 bits": (header(((b"a", (2**32, 2**32 + 1), 0, 0),)), 64, "implausible"),
    "half a block": (header(((b"a", (64, 4), 41, 0),)), 64, "blocks of 128"),
    "unknown type": (header(((b"a", (64, 4), 42, 0),)), 128, "type 42"),
    "removed type": (header(((b"a", (64, 4), 4, 0),)), 128, "type 4,"),
    "name of control characters": (header(((b"a\x1b[31m", (4,), 0, 0),)), 32, "illegal"),
    "name not UTF-8": (header(((b"\xff", (4,), 0, 0),)), 32, "not UTF-8"),
    "short": (header(TWO), 60, "truncated"),
    "long": (header(TWO), 65, "end at byte"),
    "version 1": (header(TWO, version=1), 64, "version 1"),
    "big-endian": (header(TWO, version=3 << 24), 64, "big-endian"),
    "one key twice": (header(TWO, ((b"k", 4, U32(1)),) * 2), 64, "stands twice"),
    "alignment of 24": (header(TWO, ((ALIGNMENT, 4, U32(24)),)), 64, "power of two"),
    "alignment of 0": (header(TWO, ((ALIGNMENT, 4, U32(0)),)), 64, "power of two"),
    "alignment signed": (header(TWO, ((ALIGNMENT, 5, U32(32)),)), 64, "uint32"),
    "alignment in an array": (header(TWO, ((ALIGNMENT, 9, ARRAY(4, 1) + U32(32)),)), 64, "uint32"),
    "array in an array": (header(TWO, ((b"k", 9, ARRAY(9, 0)),)), 64, "array of the type 9"),
    "array without end": (header(TWO, ((b"k", 9, ARRAY(0, 2**60)),)), 64, "ends within"),
    "texts without end": (header(TWO, ((b"k", 9, ARRAY(8, 2**60)),)), 64, "ends within"),
    "text without end": (header(TWO, ((b"k", 8, struct.pack("<Q", 2**63)),)), 64, "ends within"),
    "truth of 2": (header(TWO, ((b"k", 7, b"\2"),)), 64, "truth value 2"),
    "value of type 13": (header(TWO, ((b"k", 13, b"\2"),)), 64, "unknown type 13"),
    "tensors without end": (b"GGUF" + struct.pack("<IQQ", 3, 2**40, 0), 64, "tensors"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_refused_with_their_place(case, tmp_path):
    head, body, reason = BROKEN[case]
    path = tmp_path / "a.gguf"
    path.write_bytes(head + bytes(body))
    with pytest.raises((BadInput, Unsupported), match=reason) as e:
        read_gguf(path)
    assert str(path) in str(e.value)


def test_a_correct_file_by_hand_is_read(tmp_path):
    path = tmp_path / "a.gguf"
    path.write_bytes(header(TWO, ((ALIGNMENT, 4, U32(32)),)) + bytes(64))
    start = len(path.read_bytes()) - 64
    assert read_gguf(path).tensors == (
        GgufTensor("a", "F32", (2, 4), start),
        GgufTensor("b", "F32", (2, 4), start + 32),
    )
    assert [t.data_offset for t in gguf.GGUFReader(path).tensors] == [start, start + 32]
