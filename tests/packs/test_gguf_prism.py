"""Ternary packs in the types of PrismML's fork, by its reference code and by ggml's TQ1_0."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file

from bonsai_quant import convert, diff, export, inspect, verify
from bonsai_quant.core.errors import Unsupported, VerificationFailed
from bonsai_quant.core.schema import PackedLayer
from bonsai_quant.packs.formats import FORMATS
from bonsai_quant.packs.read import open_pack
from bonsai_quant.quantization.packing import pack
from bonsai_quant.storage.containers.gguf_reader import read_gguf
from tests.support import models

TYPES = {"gguf-pq2_0": ("PQ2_0", 142, 34, 141), "gguf-ptq1_0": ("PTQ1_0", 143, 28, 143)}
"""Format -> type, its number, bytes of a block, general.file_type of the published files."""


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory):
    """The tiny checkpoint in ternary, in both and in what they are held against."""
    out = tmp_path_factory.mktemp("prism") / "out"
    convert(str(tiny), mode="ternary", formats=f"bonsai,unpacked,{','.join(TYPES)}", out=out)
    return out


def file_of(made, name):
    return made / name / f"diffusion-model-{TYPES[name][0].lower()}.gguf"


def dequantized(data: bytes, kind: str) -> np.ndarray:
    """Stored bytes as flat float32, one weight at a time as the fork's reference code walks."""
    if kind == "F32":
        return np.frombuffer(data, "<f4")
    if kind == "BF16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    size = 34 if kind == "PQ2_0" else 28
    found = []
    for block in np.frombuffer(data, np.uint8).reshape(-1, size).tolist():
        at = slice(0, 2) if kind == "PQ2_0" else slice(26, 28)
        d = np.frombuffer(bytes(block[at]), "<f2")[0].astype(np.float32)
        if kind == "PQ2_0":
            codes = [block[2 + j // 4] >> (j % 4) * 2 & 3 for j in range(128)]
        else:
            first = [(block[m], n) for n in range(5) for m in range(16)]
            second = [(block[16 + m], n) for n in range(5) for m in range(8)]
            last = [(block[24 + h], n) for n in range(4) for h in range(2)]
            codes = [((b * 3**n & 255) * 3) >> 8 for b, n in first + second + last]
        found.append((np.array(codes, np.float32) - 1) * d)
    return np.concatenate(found)


@pytest.mark.parametrize("name", TYPES)
def test_every_weight_is_that_of_the_dense_format(made, name):
    stored = made / "unpacked/transformer/diffusion_pytorch_model.safetensors"
    dense = models.to_original({n: w.astype(np.float32) for n, w in load_file(stored).items()})
    path, kind = file_of(made, name), TYPES[name][0]
    data, header = path.read_bytes(), read_gguf(path)
    assert header.metadata["general.file_type"] == TYPES[name][3]
    packed = [t for t in header.tensors if t.kind == kind]
    assert len(packed) == 12
    for t in header.tensors:
        rows = dense[t.name][:8]  # a loop over every weight in Python takes its time
        found = dequantized(
            data[t.offset : t.offset + len(rows) * (t.nbytes // t.shape[0])], t.kind
        )
        assert np.array_equal(found.reshape(rows.shape), rows), t.name


@pytest.mark.parametrize("name", TYPES)
def test_the_pack_is_the_same_as_in_other_formats(made, name):
    assert open_pack(made / name).info == open_pack(made / "bonsai").info
    assert diff(made / name, made / "bonsai").same
    assert not [c for c in verify(made / name).checks if c.status == "failed"]
    (seen,) = inspect(file_of(made, name))
    assert f"12 {TYPES[name][0]}" in dict(seen.facts)["dtypes"]


@pytest.mark.parametrize("name", TYPES)
def test_numbers_and_sizes(made, name):
    kind, number, size, _ = TYPES[name]
    (tensor, *_) = [t for t in read_gguf(file_of(made, name)).tensors if t.kind == kind]
    assert tensor.nbytes == tensor.shape[0] * tensor.shape[1] // 128 * size
    header = file_of(made, name).read_bytes()[:4096]
    axes = b"".join(n.to_bytes(8, "little") for n in tensor.shape[::-1])
    assert axes + number.to_bytes(4, "little") in header


def random_layer(rows: int, groups: int) -> PackedLayer:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 3, (rows, 128 * groups)).astype(np.uint8)
    scales = (2.0 ** rng.integers(-8, -2, (rows, groups))).astype(np.float16)
    return PackedLayer("proj_out", codes.shape, 2, pack(codes, 2), scales)


def test_bytes_of_codes_are_those_of_ggmls_tq1_0():
    """ggml's type has blocks of 256: its stage of 16 bytes, and its 4 bytes of four codes."""
    gguf = pytest.importorskip("gguf")
    layer = random_layer(3, 2)
    blocks = FORMATS["gguf-ptq1_0"].encode(layer)[0].reshape(6, 28)
    codes = (layer.codes[..., None] >> np.arange(0, 8, 2) & 3).reshape(6, 128)
    values = np.zeros((6, 256), np.float32)
    values[:, 0] = 1  # so that no block has the scale 0
    theirs = {}
    for at, n, width in ((0, 5, 16), (80, 5, 8), (120, 4, 2)):
        digits = codes[:, at : at + n * width].reshape(6, n, width).astype(np.float32) - 1
        start, step = (160, 16) if n == 5 else (240, 4)
        wide = values.copy()
        for k in range(n):
            wide[:, start + k * step : start + k * step + width] = digits[:, k]
        block = gguf.quants.quantize(wide, gguf.GGMLQuantizationType.TQ1_0)
        first = 32 if n == 5 else 48
        theirs[at] = block[:, first : first + width]
    assert np.array_equal(np.concatenate(list(theirs.values()), 1), blocks[:, :26])


@pytest.mark.parametrize("name", TYPES)
def test_decode_is_the_inverse_of_encode(name):
    layer = random_layer(5, 3)
    again = FORMATS[name].decode("proj_out", layer.shape, 2, FORMATS[name].encode(layer))
    assert np.array_equal(again.codes, layer.codes)
    assert np.array_equal(again.scales, layer.scales)


@pytest.mark.parametrize(
    ("name", "at", "value", "place"),
    [
        ("gguf-pq2_0", 34 * 4 + 2 + 3, 0xC0, "row 1, column 143: code 3"),
        ("gguf-ptq1_0", 28 * 4 + 3, 1, "row 1, group 1, byte 3: 1 stands for no codes"),
        ("gguf-ptq1_0", 28 * 4 + 25, 2, "row 1, group 1, byte 25: 2 stands for no codes"),
        ("gguf-ptq1_0", 28 * 4 + 27, 0xA4, "row 1, group 1: scale -"),
    ],
)
def test_what_no_pack_holds_is_refused(name, at, value, place):
    (blocks,) = FORMATS[name].encode(random_layer(2, 3))
    blocks = blocks.copy()
    blocks.reshape(-1)[at] = value
    with pytest.raises(VerificationFailed, match=place):
        FORMATS[name].decode("proj_out", (2, 384), 2, [blocks])


def test_there_are_no_binary_packs_of_these_types(tiny, tmp_path):
    with pytest.raises(Unsupported, match="holds ternary packs, and this one is binary"):
        convert(str(tiny), mode="binary", formats="gguf-pq2_0", out=tmp_path / "out")
    with pytest.raises(Unsupported, match="holds ternary packs, and this one is binary"):
        export("mini-klein-binary", format="gguf-ptq1_0", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
