"""Each format against a reader that this project did not write, and against hostile values."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from bonsai_quant import export
from bonsai_quant.core.errors import VerificationFailed
from bonsai_quant.core.schema import BITS, PackedLayer, PackTensor
from bonsai_quant.packs.formats import FORMAT_NAMES, FORMATS
from bonsai_quant.packs.read import open_pack
from bonsai_quant.quantization.solvers import CALIBRATED, SOLVER_NAMES, SOLVERS
from tests.support import models


def reference(packs) -> dict[str, np.ndarray]:
    """The float32 weights as the safetensors package reads them from the dense format."""
    dense = load_file(packs.out / "unpacked/transformer/diffusion_pytorch_model.safetensors")
    return {n: w.astype(np.float32) for n, w in dense.items()}


def test_names_and_tables_agree():
    assert tuple(FORMATS) == FORMAT_NAMES
    assert tuple(SOLVERS) == SOLVER_NAMES == ("exact", "absmean", "weighted", "gptq")
    assert CALIBRATED == ("weighted", "gptq")
    assert all(name == solver.name for name, solver in SOLVERS.items())


def test_bonsai_is_read_by_the_safetensors_package(packs):
    stored, dense = load_file(packs.out / "bonsai/model.safetensors"), reference(packs)
    for name, w in dense.items():
        linear = name.removesuffix(".weight")
        if name in stored:
            assert stored[name].dtype == np.float16
            assert np.array_equal(stored[name].astype(np.float32), w)
            continue
        s = np.repeat(stored[f"{linear}.scales"].astype(np.float32), 128, axis=1)
        codes = stored[f"{linear}.codes"]
        if packs.mode == "binary":
            t = 2.0 * np.unpackbits(codes, axis=1, bitorder="little") - 1
        else:
            digits = codes[..., None] // 3 ** np.arange(5) % 3
            t = digits.reshape(len(codes), -1)[:, : w.shape[1]] - 1.0
        assert np.array_equal(s * t.astype(np.float32), w)


def test_mlx_is_dequantized_by_mlx(packs):
    mx = pytest.importorskip("mlx.core")
    path = packs.out / "mlx/transformer-packed-mflux/diffusion_pytorch_model.safetensors"
    stored, dense = mx.load(str(path)), reference(packs)
    bits = 2 if packs.mode == "ternary" else 1
    for name, w in dense.items():
        linear = name.removesuffix(".weight")
        found = stored[name]
        if f"{linear}.scales" in stored:
            parts = [stored[f"{linear}.{p}"].astype(mx.float32) for p in ("scales", "biases")]
            found = mx.dequantize(found, *parts, group_size=128, bits=bits)
        assert np.array_equal(np.array(found.astype(mx.float32)), w)


@pytest.mark.heavy
def test_gemlite_is_loaded_by_torch(packs):
    torch = pytest.importorskip("torch")
    folder = packs.out / f"gemlite/transformer-gemlite-int{2 if packs.mode == 'ternary' else 1}"
    stored = torch.load(folder / "state_dict.pt", weights_only=True)
    bits = json.loads((folder / "quantization_config.json").read_text())["bits"]
    for name, w in reference(packs).items():
        linear = name.removesuffix(".weight")
        if name in stored:
            assert stored[name].dtype == torch.bfloat16
            assert np.array_equal(stored[name].float().numpy(), w)
            continue
        q, s, z = (stored[f"{linear}.{p}"].numpy() for p in ("W_q", "scales", "zeros"))
        assert (s.dtype, z.dtype) == (np.float32, np.float32)
        fields = q[:, None, :] >> (bits * np.arange(8 // bits, dtype=np.uint8))[None, :, None]
        codes = (fields & (2**bits - 1)).reshape(w.shape[1], w.shape[0]).astype(np.float32)
        found = codes * np.repeat(s, 128, 0) + np.repeat(z, 128, 0)
        assert np.array_equal(found.T, w)
        assert stored[f"{linear}.orig_shape"].tolist() == list(w.shape)


@pytest.mark.heavy
def test_unpacked_is_loaded_by_diffusers(packs):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    model = diffusers.Flux2Transformer2DModel.from_pretrained(
        packs.out / "unpacked", subfolder="transformer", torch_dtype=torch.float32
    )
    state = model.state_dict()
    assert set(state) == set(reference(packs))
    for name, w in reference(packs).items():
        assert np.array_equal(state[name].numpy(), w)


SDNQ = """
import sys, torch
from diffusers import Flux2Transformer2DModel
from safetensors.torch import load_file
import sdnq
packed, dense = sys.argv[1:]
model = Flux2Transformer2DModel.from_pretrained(packed, torch_dtype=torch.float32)
expected = load_file(f"{dense}/diffusion_pytorch_model.safetensors")
decoded = 0
for name, module in model.named_modules():
    if hasattr(module, "sdnq_dequantizer"):
        assert module.weight.dtype == torch.uint8
        zero = getattr(module, "zero_point", None)
        w = module.sdnq_dequantizer(module.weight, scale=module.scale, zero_point=zero)
        assert torch.equal(w, expected.pop(f"{name}.weight").float()), name
        decoded += 1
for name, w in expected.items():
    assert torch.equal(model.get_parameter(name), w.float()), name
print(decoded)
"""


@pytest.mark.slow
def test_sdnq_is_loaded_by_diffusers_with_the_sdnq_package(packs):
    pytest.importorskip("sdnq")
    folders = [packs.out / name / "transformer" for name in ("sdnq", "unpacked")]
    ended = subprocess.run(  # sdnq compiles at first use unless this is set before it is imported
        [sys.executable, "-c", SDNQ, *folders], text=True, capture_output=True,
        env=os.environ | {"SDNQ_USE_TORCH_COMPILE": "0"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) == len(open_pack(packs.out / "sdnq").info.packed)


def test_every_pack_reads_back_as_the_same_layers(packs):
    opened = {f: open_pack(packs.out / f) for f in packs.formats}
    first = opened["bonsai"]
    for pack in opened.values():
        assert pack.info == first.info
        for t in first.info.packed:
            a, b = first.layer(t), pack.layer(t)
            assert np.array_equal(a.codes, b.codes)
            assert np.array_equal(a.scales, b.scales)


@pytest.mark.parametrize("source", FORMAT_NAMES)
@pytest.mark.parametrize("target", FORMAT_NAMES)
def test_export_gives_the_bytes_that_convert_gives(packs, tmp_path, source, target):
    if not {source, target} <= set(packs.formats):
        pytest.skip(f"no {packs.mode} pack in this format")
    export(packs.out / source, format=target, out=tmp_path / "out")
    for path in sorted((packs.out / target).rglob("*")):
        if path.is_file():
            copy = tmp_path / "out" / path.relative_to(packs.out / target)
            assert copy.read_bytes() == path.read_bytes(), path.name


def test_golden_bytes_of_one_row():
    """One row of 128: codes 0, 1, 2 repeated, scale 2^-6, by hand."""
    codes = np.resize(np.array([0, 1, 2], np.uint8), 128)
    packed = np.zeros(32, np.uint8)
    for j, c in enumerate(codes):
        packed[j // 4] |= c << 2 * (j % 4)
    layer = PackedLayer("a", (1, 128), 2, packed[None], np.array([[2.0**-6]], np.float16))
    trits = [21 + 0 * 81 + 0, 0]
    trits = [sum(int(c) * 3**k for k, c in enumerate(codes[j : j + 5])) for j in range(0, 125, 5)]
    trits.append(sum(int(c) * 3**k for k, c in enumerate([*codes[125:], 1, 1])))
    b, scales = FORMATS["bonsai"].encode(layer)
    assert b.tolist() == [trits]
    assert scales.view(np.uint16).tolist() == [[0x2400]]
    words, step, bias = FORMATS["mlx"].encode(layer)
    assert words[0, 0] == sum(int(c) << 2 * j for j, c in enumerate(codes[:16]))
    assert (step.tolist(), bias.tolist()) == ([[0x3C80]], [[0xBC80]])
    w_q, s, z, metadata, shape = FORMATS["gemlite"].encode(layer)
    assert w_q[:, 0].tolist() == packed.tolist()
    assert (s.tolist(), z.tolist()) == ([[2.0**-6]], [[-(2.0**-6)]])
    assert metadata.tolist() == [0, 2, 128, 3, 4, 1, 1, 0, 0, 0, 4, 1]
    assert shape.tolist() == [1, 128]
    levels, scale = FORMATS["sdnq"].encode(layer)
    assert levels[:2].tolist() == [1 + 2 * 4 + 3 * 16 + 1 * 64, 2 + 3 * 4 + 1 * 16 + 2 * 64]
    assert scale.tolist() == [[0x3C80]]
    levels, scale = FORMATS["diffusers"].encode(layer)
    assert (levels[0, :2].tolist(), scale.tolist()) == (packed[:2].tolist(), [[2.0**-6]])
    blocks, scale = FORMATS["onnx"].encode(layer)
    assert blocks.tolist() == [[packed.tolist()]]
    assert scale.view(np.uint16).tolist() == [[0x2400]]
    (dense,) = FORMATS["unpacked"].encode(layer)
    assert dense.view(ml_dtypes.bfloat16).astype(np.float32)[0, :3].tolist() == [-(2**-6), 0, 2**-6]


ORIGINAL = dict.fromkeys(
    ("gguf", "gguf-pq2_0", "gguf-ptq1_0", "comfyui", "comfyui-packed"),
    "transformer_blocks.0.attn.to_k",
)
"""A layer that formats under the original names have a place for."""


def damaged(format_name, bits, change):
    """Parts of a random layer in a format, one of them changed; and the format's decoder on it."""
    name = ORIGINAL.get(format_name, "layer")
    rng = np.random.default_rng(0)
    codes = np.full((32, 256 * bits // 8), 0x99, np.uint8)
    scales = (2.0 ** rng.integers(-8, -4, (32, 2))).astype(np.float16)
    fmt = FORMATS[format_name]
    parts = [p.copy() for p in fmt.encode(PackedLayer(name, (32, 256), bits, codes, scales))]
    change(parts)
    return lambda: fmt.decode(name, (32, 256), bits, parts)


def put(part, at, value):
    def change(parts):
        parts[part][at] = value

    return change


DAMAGE = {
    "bonsai byte 243": ("bonsai", 2, put(0, (3, 4), 243), "row 3, byte 4"),
    "bonsai padding": ("bonsai", 2, put(0, (3, 51), 0), "row 3, byte 51"),
    "bonsai scale zero": ("bonsai", 2, put(1, (3, 1), 0), "row 3, group 1"),
    "bonsai scale negative": ("bonsai", 1, put(1, (3, 1), -1), "row 3, group 1"),
    "bonsai scale nan": ("bonsai", 1, put(1, (3, 1), np.nan), "row 3, group 1"),
    "bonsai scale inf": ("bonsai", 1, put(1, (3, 1), np.inf), "row 3, group 1"),
    "bonsai scale off the bf16 grid": ("bonsai", 2, put(1, (3, 1), 1 + 2**-10), "row 3, group 1"),
    "bonsai scale subnormal": ("bonsai", 2, put(1, (3, 1), 2**-20), "row 3, group 1"),
    "mlx code 3": ("mlx", 2, put(0, (5, 1), 0xC0), "row 5, column 19"),
    "mlx bias": ("mlx", 2, put(2, (5, 1), 0x3C80), "row 5, group 1"),
    "mlx binary bias": ("mlx", 1, put(2, (5, 0), 0xBF80), "row 5, group 0"),
    "gemlite code 3": ("gemlite", 2, put(0, (4, 6), 0x03), "row 6, column 16"),
    "gemlite zero": ("gemlite", 1, put(2, (1, 6), -1.5), "row 6, group 1"),
    "gemlite metadata": ("gemlite", 2, put(3, 2, 64), "field 2"),
    "gemlite shape": ("gemlite", 2, put(4, 0, 33), "orig_shape"),
    "diffusers code 3": ("diffusers", 2, put(0, (4, 6), 0xC0), "row 4, column 27"),
    "diffusers scale": ("diffusers", 1, put(1, (3, 1), -0.5), "row 3, group 1"),
    "sdnq code -2": ("sdnq", 2, put(0, 5 * 64 + 3, 0x54), "row 5, column 12"),
    "sdnq zero point": ("sdnq", 1, put(2, (5, 1, 0), 0x3C80), "row 5, group 1"),
    "sdnq scale off the grid": ("sdnq", 2, put(1, (5, 1, 0), 0x0001), "row 5, group 1"),
    "onnx code 3": ("onnx", 2, put(0, (5, 1, 2), 0x70), "row 5, column 138"),
    "onnx binary code 1": ("onnx", 1, put(0, (5, 1, 2), 0x82 | 0x10), "row 5, column 138"),
    "onnx scale negative": ("onnx", 2, put(1, (5, 1), -1), "row 5, group 1"),
    "unpacked third level": ("unpacked", 2, put(0, (7, 130), 0x3F81), "row 7"),
    "unpacked zero in binary": ("unpacked", 1, put(0, (7, 130), 0), "row 7, column 130"),
    "comfyui third level": ("comfyui", 2, put(0, (7, 130), 0x3F81), "row 7"),
    "comfyui-packed code 3": ("comfyui-packed", 2, put(0, (4, 6), 0xC0), "row 4, column 27"),
    "comfyui-packed scale": ("comfyui-packed", 1, put(1, (3, 1), 0x8001), "row 3, group 1"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_illegal_values_are_refused_with_their_place(case):
    format_name, bits, change, place = DAMAGE[case]
    with pytest.raises(VerificationFailed, match=place) as e:
        damaged(format_name, bits, change)()
    assert ORIGINAL.get(format_name, "layer") in str(e.value)


@pytest.mark.parametrize("format_name", FORMAT_NAMES)
@pytest.mark.parametrize("mode", ["ternary", "binary"])
def test_decode_is_the_inverse_of_encode(format_name, mode):
    if format_name not in models.FORMATS[mode]:
        pytest.skip(f"no {mode} pack in this format")
    layer = damaged(format_name, BITS[mode], lambda parts: None)()
    again = FORMATS[format_name].encode(layer)
    specs = FORMATS[format_name].parts(
        PackTensor(f"{layer.name}.weight", (32, 256), mode), BITS[mode]
    )
    assert [s.nbytes for s in specs] == [p.nbytes for p in again]
    assert [s.shape for s in specs] == [p.shape for p in again]
