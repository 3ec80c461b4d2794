"""Ternary packs as ggml's Q2_0, and files of forks that wrote something else under its number."""

from __future__ import annotations

import shutil
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file

from bonsai_quant import convert, diff, inspect, verify
from bonsai_quant.core.errors import Unsupported, VerificationFailed
from bonsai_quant.core.schema import PackedLayer
from bonsai_quant.packs.formats import FORMATS
from bonsai_quant.packs.read import open_pack
from bonsai_quant.storage.containers.gguf import KINDS, MAGIC, GgufTensor, build_header, padded
from bonsai_quant.storage.containers.gguf_reader import parse_gguf, read_gguf
from tests.support import forge, models

FILE = "diffusion-model-q2_0.gguf"
QKV = "double_blocks.0.img_attn.qkv.weight"


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory):
    """The tiny checkpoint in ternary, as gguf and what it is held against."""
    out = tmp_path_factory.mktemp("gguf") / "out"
    convert(str(tiny), mode="ternary", formats="bonsai,unpacked,gguf", out=out)
    return out


def dequantized(data: bytes, kind: str) -> np.ndarray:
    """Stored bytes as flat float32, by the layouts that ggml-common.h describes."""
    if kind == "F32":
        return np.frombuffer(data, "<f4")
    if kind == "BF16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    assert kind == "Q2_0"
    blocks = np.frombuffer(data, np.uint8).reshape(-1, 18)
    d = blocks[:, :2].copy().view("<f2").astype(np.float32)
    codes = blocks[:, 2:, None] >> np.array([0, 2, 4, 6], np.uint8) & 3
    return ((codes.reshape(-1, 64).astype(np.float32) - 1) * d).reshape(-1)


def test_every_weight_is_that_of_the_dense_format(made):
    stored = made / "unpacked/transformer/diffusion_pytorch_model.safetensors"
    dense = models.to_original({n: w.astype(np.float32) for n, w in load_file(stored).items()})
    data = (made / "gguf" / FILE).read_bytes()
    held = {t.name: t for t in read_gguf(made / "gguf" / FILE).tensors}
    assert held.keys() == dense.keys()
    for name, w in dense.items():
        t = held[name]
        found = dequantized(data[t.offset : t.offset + t.nbytes], t.kind)
        assert np.array_equal(found.reshape(w.shape), w), name
    assert sum(t.kind == "Q2_0" for t in held.values()) > 0


def test_the_pack_is_the_same_as_in_other_formats(made):
    assert open_pack(made / "gguf").info == open_pack(made / "bonsai").info
    assert diff(made / "gguf", made / "bonsai").same
    assert not [c for c in verify(made).checks if c.status == "failed"]
    (seen,) = inspect(made / "gguf" / FILE)
    assert dict(seen.facts)["dtypes"] == "9 BF16, 8 F32, 12 Q2_0"


def test_golden_bytes_of_a_group():
    """Scale 2^-6 is 0x2400, and stands in both blocks; codes 0, 1, 2, 1 are the byte 0x64."""
    codes = np.full((1, 32), 0x64, np.uint8)
    layer = PackedLayer("proj_out", (1, 128), 2, codes, np.array([[2.0**-6]], np.float16))
    (blocks,) = FORMATS["gguf"].encode(layer)
    assert blocks.tobytes() == 2 * (bytes([0x00, 0x24]) + 16 * bytes([0x64]))


@pytest.mark.parametrize(
    ("at", "value", "place"),
    [
        (18 * 5 + 2 + 3, 0xC0, "row 1, column 79: code 3"),
        (18 * 5 + 1, 0x28, "row 1, group 0: the second block's scale"),
    ],
)
def test_what_no_pack_holds_is_refused(at, value, place):
    codes = np.full((2, 64), 0x55, np.uint8)
    layer = PackedLayer("proj_out", (2, 256), 2, codes, np.full((2, 2), 2.0**-6, np.float16))
    (blocks,) = FORMATS["gguf"].encode(layer)
    blocks = blocks.copy()
    blocks.reshape(-1)[at] = value
    with pytest.raises(VerificationFailed, match=place):
        FORMATS["gguf"].decode("proj_out", (2, 256), 2, [blocks])


def test_a_flipped_code_is_found_where_it_is(made, tmp_path):
    folder = shutil.copytree(made / "gguf", tmp_path / "gguf")
    pack = open_pack(folder)
    to_k = next(t for t in pack.info.packed if t.name.endswith(".0.attn.to_k.weight"))
    code = pack.parts(to_k)[0][3, 5] & 3
    forge.flip(folder, f"{QKV}[128:256]", 36 * 3 + 5, 2 if code == 2 else 1)
    forge.resign(folder)
    (change,) = [c for c in diff(folder, made / "gguf").layers if not c.same]
    assert (change.name, change.flipped) == ("transformer_blocks.0.attn.to_k.weight", 1)


# ---- number 42 ----


def file_of_42(shape: tuple[int, int], block: int, nbytes: int, beside: int) -> bytes:
    """A file with a tensor of type 42 of a size of one's own, and a float32 after it."""
    tensors = [GgufTensor("a", "Q2_0", shape), GgufTensor("b", "F32", (beside,))]
    header, _ = build_header(tensors, {"general.architecture": "flux"})
    size = shape[0] * shape[1] // block * nbytes
    was, is_now = padded(tensors[0].nbytes), padded(size)
    at = header.rindex(struct.pack("<IQ", 0, was))
    header = header[:at] + struct.pack("<IQ", 0, is_now) + header[at + 12 :]
    assert header.startswith(MAGIC)
    return header + bytes(is_now + padded(4 * beside))


def kinds(data: bytes, path) -> list[str]:
    return [t.kind for t in parse_gguf(data, len(data), path).tensors]


def test_two_layouts_of_one_number_are_told_apart_by_size(tmp_path):
    assert KINDS["Q2_0"].code == 42
    for shape in ((8, 256), (64, 128), (1, 2048)):
        assert kinds(file_of_42(shape, 64, 18, 8), tmp_path) == ["Q2_0", "F32"]
        assert kinds(file_of_42(shape, 128, 34, 8), tmp_path) == ["Q2_0/128", "F32"]


def test_a_size_that_fits_both_is_refused(tmp_path):
    """128 weights take 36 or 34 bytes, and both are padded to 64."""
    with pytest.raises(Unsupported, match="stands for two layouts"):
        kinds(file_of_42((1, 128), 64, 18, 8), tmp_path)


def test_rows_of_64_are_of_the_one_layout_that_has_such_blocks(tmp_path):
    assert kinds(file_of_42((2, 64), 64, 18, 8), tmp_path) == ["Q2_0", "F32"]


def test_a_fork_s_file_is_no_pack_and_is_said_to_be_one(made, tmp_path):
    folder = shutil.copytree(made / "gguf", tmp_path / "gguf")
    (folder / FILE).write_bytes(file_of_42((8, 256), 128, 34, 8))
    with pytest.raises(Unsupported, match="type 42 in blocks of 128") as e:
        open_pack(folder)
    assert FILE in str(e.value)
