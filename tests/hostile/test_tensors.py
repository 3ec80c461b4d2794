"""Group C: values and shapes that cannot be packed, and those that only look so."""

from __future__ import annotations

import json
import math
import os
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from bonsai_quant.conversion import stream as pipeline
from bonsai_quant.conversion.checks import Checks
from bonsai_quant.conversion.quantize_tensor import TensorQuantizer
from bonsai_quant.core.errors import BadInput
from bonsai_quant.core.schema import (
    PackedLayer,
    PackTensor,
    Piece,
    PlannedTensor,
    Span,
    StoredTensor,
    TensorSpec,
)
from bonsai_quant.packs.read import open_pack
from bonsai_quant.quantization import dequantize as dense
from bonsai_quant.quantization.bf16 import as_float32
from bonsai_quant.quantization.solvers import solve
from bonsai_quant.sources.checkpoint import SourceFile
from tests.support import models

from .conftest import MATRIX, MODE, MODEL, NORM, SINGLE_FILE, mk, original, save, table_of, tiny

BF16 = ml_dtypes.bfloat16
LEAST = 2.0**-14
KEPT = "context_embedder.weight"
MODES = ("ternary", "binary")


def poked(name: str, at: int, bits: int, dtype: Any = BF16) -> dict[str, np.ndarray]:
    """The tiny model with the bits of one element replaced."""
    weights = tiny(dtype)
    flat = weights[name].reshape(-1)
    flat.view({2: np.uint16, 4: np.uint32}[flat.itemsize])[at] = bits
    return weights


# dtype, bits, how the message shows them
NOT_FINITE = {
    "C51-bf16-nan": (BF16, 0x7FC0, "nan"),
    "C51-bf16-negative-nan": (BF16, 0xFFFF, "nan"),
    "C51-bf16-signalling-nan": (BF16, 0x7F81, "nan"),
    "C51-f16-nan": (np.float16, 0x7E00, "nan"),
    "C51-f16-nan-of-ones": (np.float16, 0xFFFF, "nan"),
    "C51-f32-nan": (np.float32, 0x7FC00000, "nan"),
    "C51-f32-nan-of-ones": (np.float32, 0xFFFFFFFF, "nan"),
    "C51-f32-nan-that-carries": (np.float32, 0x7FFFFFFF, "nan"),
    "C51-f32-smallest-nan": (np.float32, 0x7F800001, "nan"),
    "C52-bf16-inf": (BF16, 0x7F80, "inf"),
    "C52-bf16-minus-inf": (BF16, 0xFF80, "-inf"),
    "C52-f16-inf": (np.float16, 0x7C00, "inf"),
    "C52-f32-minus-inf": (np.float32, 0xFF800000, "-inf"),
}


@pytest.mark.parametrize("name, at", [(MATRIX, 128 * 77 + 5), (NORM, 63), (KEPT, 0)],
                         ids=["packed", "norm", "kept"])  # fmt: skip
@pytest.mark.parametrize("case", NOT_FINITE)
def test_values_that_are_not_finite(case, name, at, refuse, tmp_path):
    dtype, bits, shown = NOT_FINITE[case]
    path = save(tmp_path / SINGLE_FILE, poked(name, at, bits, dtype))
    refuse(3, path, path.name, f"tensor {name}:", f"element {at}:", f"{shown} is not finite")


@pytest.mark.parametrize("mode", MODES)
def test_c51_the_solver_absmean_and_binary_packs_refuse_too(mode, refuse, tmp_path):
    path = save(tmp_path / SINGLE_FILE, poked(MATRIX, 1000, 0x7F80))
    options = ("--mode", mode, "--solver", "absmean", "--no-sanity", "--allow-zero")
    refuse(3, path, f"tensor {MATRIX}:", "element 1000:", "inf", options=options)


@pytest.mark.parametrize("name, at", [
    ("double_blocks.1.txt_attn.qkv.weight", 200 * 128 + 1),
    ("final_layer.adaLN_modulation.1.weight", 130 * 128 + 2),
])  # fmt: skip
def test_c51_elements_are_counted_in_the_stored_tensor(name, at, refuse, tmp_path):
    weights = original(tiny())
    weights[name].reshape(-1)[at] = np.nan
    path = save(tmp_path / SINGLE_FILE, weights)
    refuse(3, path, f"tensor {name}:", f"element {at}:", "nan")


@pytest.mark.parametrize("block", [1, 1000, 1 << 23], ids=["1-row", "3-rows", "whole"])
def test_c51_the_element_does_not_depend_on_the_blocks(block, refuse, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "BLOCK", block)
    path = save(tmp_path / SINGLE_FILE, poked(MATRIX, 128 * 99 + 7, 0x7FC0))
    refuse(3, path, f"tensor {MATRIX}:", f"element {128 * 99 + 7}:")


TOO_LARGE = [(BF16, 70000.0), (BF16, -65536.0), (BF16, 3e38), (np.float32, 65408.0),
             (np.float32, 1e38), (np.float32, -65500.0), (np.float16, 65504.0)]  # fmt: skip


@pytest.mark.parametrize("dtype, value", TOO_LARGE)
@pytest.mark.parametrize("name", [NORM, KEPT])
def test_c53_kept_values_too_large_for_16_bits(name, dtype, value, refuse, tmp_path):
    weights = tiny(dtype)
    weights[name].reshape(-1)[3] = value
    shown = f"{float(weights[name].reshape(-1)[3]):g}"
    path = save(tmp_path / SINGLE_FILE, weights)
    refuse(3, path, f"tensor {name}:", "element 3:", f"{shown} is too large", "65280")


def bonsai(folder: Path) -> tuple[Any, dict[str, PackTensor]]:
    pack = open_pack(folder)
    return pack, {t.name: t for t in pack.info.tensors}


@pytest.mark.parametrize("dtype, value", [(BF16, 65280), (np.float32, -65280), (np.float32, 65407)])
def test_c53_the_largest_kept_value(dtype, value, accept, tmp_path):
    weights = tiny(dtype)
    weights[NORM][3] = value
    pack, tensors = bonsai(accept(save(tmp_path / SINGLE_FILE, weights)).pack)
    kept = pack.kept(tensors[NORM])
    assert kept[3] == math.copysign(65280, value) and np.isfinite(kept).all()


@pytest.mark.parametrize("mode, value, code", [
    ("ternary", 1e5, 3), ("binary", 1e5, 3), ("binary", 40000, 3), ("ternary", 65280, 0),
    ("binary", 32640, 0),
])  # fmt: skip
def test_c54_scales_too_large_for_16_bits(mode, value, code, refuse, accept, tmp_path):
    weights = tiny()
    weights[MATRIX][5] = value
    path = save(tmp_path / SINGLE_FILE, weights)
    if code:
        says = (f"tensor {MATRIX}:", f"element {5 * 128}:", "scale is too large")
        refuse(3, path, *says, options=("--mode", mode, "--no-sanity"))
        return
    pack, tensors = bonsai(accept(path, "--no-sanity", mode=mode).pack)
    row = dense.weights(pack.layer(tensors[MATRIX]))[5]
    assert (row == float(weights[MATRIX][5, 0])).all()


# ---- groups of weights, against oracles in plain float64 ----


def nearest_on_grid(scale: float) -> float:
    """The 8-bit number nearest to a scale, half to even; at least 2^-14."""
    mantissa, exponent = math.frexp(scale)
    return max(math.ldexp(round(mantissa * 256), exponent - 8), LEAST)


def best_scales(w: np.ndarray, mode: str) -> set[float]:
    """The grid scales of all optima (more than one on ties). w: [128] float64."""
    if mode == "binary":
        return {nearest_on_grid(np.abs(w).mean())}
    ordered = np.sort(np.abs(w))[::-1]
    total, k = np.cumsum(ordered), np.arange(1, 129)
    gain = total**2 / k
    return {nearest_on_grid(s) for s in (total / k)[gain >= gain.max() * (1 - 1e-12)]}


def nearest_codes(w: np.ndarray, s: float, mode: str) -> np.ndarray:
    if mode == "binary":
        return np.where(w >= 0, 1.0, -1.0)
    return np.sign(w) * (np.abs(w) > s / 2)


def group(*values: float, fill: float = 0.0) -> np.ndarray:
    w = np.full(128, fill, np.float64)
    w[: len(values)] = values
    return w.astype(BF16).astype(np.float64)


rng = np.random.default_rng(7)
GROUPS = {
    "C55-zeros": group(),
    "C55-minus-zeros": group(fill=-0.0),
    "C56-1e-8": group(fill=1e-8),
    "C56-5e-8": group(fill=-5e-8),
    "C56-1.1e-6": group(fill=1.1e-6),
    "C56-below-the-grid": group(fill=LEAST * 0.99),
    "C56-on-the-edge": group(fill=LEAST),
    "C56-half-the-edge": group(fill=LEAST / 2),
    "C56-small-and-one-large": group(1.0, fill=1e-8),
    "C56-smallest-normal": group(fill=2.0**-126),
    "C57-constant": group(fill=0.3),
    "C57-alternating": group(*[0.02, -0.02] * 64),
    "C57-outlier": group(5.0),
    "C57-outlier-among-small": group(-60.0, fill=0.01),
    "C57-two-sizes": group(*[1.0] * 64, fill=0.5),
    "C57-tie-at-the-threshold": group(*[1.0] * 8, *[0.5] * 4),
    "C57-negative-ties": group(*[-1.0] * 8, *[-0.5] * 4, 0.5),
    "C57-powers-of-two": group(*[2.0**-k for k in range(128)]),
    "C57-subnormals": group(*[2.0**-130, -(2.0**-133)] * 64),
    "C57-subnormals-and-one": group(1.0, fill=2.0**-133),
    "C57-minus-zero-and-one": group(1.0, fill=-0.0),
    "C57-ramp": group(*np.arange(128) / 128),
    "C57-largest": group(fill=32640.0),
    "C57-normal": group(*rng.standard_normal(128) * 0.02),
    "C57-heavy-tail": group(*rng.standard_t(1.5, 128) * 0.02),
    "C57-rounded": group(*np.round(rng.standard_normal(128) * 2) / 64),
}


def solved(w: np.ndarray, mode: str, dtype: Any = BF16) -> tuple[float, np.ndarray, Any]:
    """Scale, dequantized weights and the rest, with every warning an error."""
    stored = np.ascontiguousarray(w.reshape(1, 128).astype(dtype))
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        found = solve(stored.view(np.uint16) if dtype is BF16 else stored, "exact", mode)
    layer = PackedLayer("x", (1, 128), 2 if mode == "ternary" else 1, found.codes, found.scales)
    return float(found.scales[0, 0]), dense.weights(layer)[0].astype(np.float64), found


@pytest.mark.parametrize("dtype", [BF16, np.float32], ids=["bf16", "f32"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", GROUPS)
def test_every_group_gets_its_optimum(case, mode, dtype):
    w = GROUPS[case]
    s, dequantized, found = solved(w, mode, dtype)
    assert s in best_scales(w, mode)
    assert (dequantized == s * nearest_codes(w, s, mode)).all()
    assert found.below[0] == (min(best_scales(w, mode)) == LEAST > unrounded(w, mode))


def unrounded(w: np.ndarray, mode: str) -> float:
    """The best scale before the floor, rounded to 8 bits."""
    if mode == "binary":
        best = np.abs(w).mean()
    else:
        ordered = np.sort(np.abs(w))[::-1]
        total, k = np.cumsum(ordered), np.arange(1, 129)
        best = (total / k)[np.argmax(total**2 / k)]
    mantissa, exponent = math.frexp(best)
    return math.ldexp(round(mantissa * 256), exponent - 8)


@pytest.mark.parametrize("case", [c for c in GROUPS if c[:3] in ("C55", "C56")])
def test_c56_small_groups_are_bounded(case):
    """Ternary never does worse than zeros; binary, which has no zero, is off by 2^-14 at most."""
    w = GROUPS[case]
    _, ternary, found = solved(w, "ternary")
    assert ((ternary - w) ** 2).sum() <= (w**2).sum()
    if found.below[0]:
        assert (np.abs(ternary) == LEAST).sum() == (np.abs(w) > LEAST / 2).sum()
        assert (np.abs(solved(w, "binary")[1] - w) <= max(LEAST, np.abs(w).max())).all()


@pytest.mark.parametrize("mode", MODES)
def test_c55_zero_groups_rows_and_tensors_are_counted(mode, accept, refuse, tmp_path):
    weights = tiny()
    weights[MATRIX][3] = 0
    weights["single_transformer_blocks.1.attn.to_out.weight"][:2, :128] = 0
    path = save(tmp_path / SINGLE_FILE, weights)
    made = accept(path, mode=mode)
    measured = json.loads((made.pack / "manifest.json").read_text())["measured"]
    assert measured["groups_below_grid"] == 3
    assert "3 groups" in made.out
    pack, tensors = bonsai(made.pack)
    row = dense.weights(pack.layer(tensors[MATRIX]))[3]
    assert (row == (0 if mode == "ternary" else LEAST)).all()
    weights[MATRIX][:] = 0
    save(path, weights)
    refuse(3, path, f"tensor {MATRIX}", "all zeros", options=("--mode", mode), out=tmp_path / "no")
    accept(path, "--allow-zero", mode=mode, out="zeros")


@pytest.mark.parametrize("mode", MODES)
def test_c57_blocks_and_threads_do_not_matter(mode, accept, tmp_path, monkeypatch):
    weights = tiny()
    for k, name in enumerate((MATRIX, "transformer_blocks.0.ff.linear_in.weight")):
        rows = np.stack(list(GROUPS.values())).astype(BF16)
        weights[name][: len(rows)] = rows[:: -1 if k else 1]
    path = save(tmp_path / SINGLE_FILE, weights)
    made = []
    for block, threads in ((1 << 23, 1), (1 << 23, 4), (1, 3), (1000, 1), (5000, 2)):
        monkeypatch.setattr(pipeline, "BLOCK", block)
        options = ("--no-sanity", "--threads", threads)
        pack = accept(path, *options, mode=mode, out=f"out-{block}-{threads}").pack
        made.append({n: (pack / n).read_bytes() for n in os.listdir(pack)})
    assert all(m == made[0] for m in made[1:])


# ---- shapes ----


def of_sizes(**sizes: int) -> dict[str, np.ndarray]:
    return models.tensors((MODEL[0], MODEL[1] | sizes))


ODD = [f"transformer_blocks.{i}.{f}.linear_out" for i in (0, 1) for f in ("ff", "ff_context")]
ODD += [f"single_transformer_blocks.{i}.attn.to_out" for i in (0, 1)]


def test_c58_all_layers_of_an_odd_width_are_listed(refuse, tmp_path):
    path = save(tmp_path / SINGLE_FILE, of_sizes(m=130))
    says = [f"{name} (in = {130 if 'linear' in name else 258})" for name in ODD]
    refuse(4, path, path.name, "6 layers", "multiple of 128", *says, within=2)


@pytest.mark.parametrize("mode", MODES)
def test_c59_rows_need_not_be_a_multiple_of_anything(mode, run, tmp_path):
    """130 wide MLPs, kept where that is the input: 260 and 644 rows in all formats, and back."""
    path = save(tmp_path / SINGLE_FILE, of_sizes(m=130))
    rules = "".join(f"  - {{match: '{p}', action: keep}}\n" for p in (
        "*.linear_out", "single_*.to_out"))  # fmt: skip
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"mode: {mode}\nlayers:\n{rules}")
    formats = ("-f", "bonsai,mlx,gemlite,unpacked")
    made = run("convert", path, "--recipe", recipe, *formats, "-o", tmp_path / "out")
    assert made.code == 0, made.err
    assert run("verify", tmp_path / "out", "--against", path).code == 0
    pack, tensors = bonsai(tmp_path / "out" / "bonsai")
    assert tensors["transformer_blocks.0.ff.linear_in.weight"].shape == (260, 128)
    assert tensors["single_transformer_blocks.1.attn.to_qkv_mlp_proj.weight"].shape == (644, 128)


WIDE = "transformer_blocks.1.ff.linear_in.weight"
SHAPES = {
    "C60-flat": (MATRIX, (128 * 128,), "[128, 128]"),
    "C60-three-axes": (MATRIX, (1, 128, 128), "[128, 128]"),
    "C60-transposed": (WIDE, (128, 256), "[256, 128]"),
    "C60-other-width": (WIDE, (512, 64), "[256, 128]"),
    "C60-norm-with-two-axes": (NORM, (1, 64), "[64]"),
    "C60-embedder-flat": ("x_embedder.weight", (128 * 64,), "expected 2 axes"),
    "C60-embedder-of-three-axes": ("x_embedder.weight", (128, 8, 8), "expected 2 axes"),
    "C60-first-norm-with-two-axes": ("transformer_blocks.0.attn.norm_q.weight", (8, 8),
                                     "expected 1 axes"),
}  # fmt: skip


@pytest.mark.parametrize("case", SHAPES)
def test_c60_other_shapes_of_the_same_size(case, refuse, tmp_path):
    name, shape, expected = SHAPES[case]
    weights = tiny()
    weights[name] = weights[name].reshape(shape)
    path = save(tmp_path / SINGLE_FILE, weights)
    refuse(3, path, path.name, f"tensor {name}", str(list(shape)), expected)


@pytest.mark.parametrize("name", [MATRIX, NORM, "x_embedder.weight", "proj_out.weight"])
def test_c60_empty_tensors(name, refuse, tmp_path):
    weights = tiny()
    weights[name] = weights[name][:0]
    path = save(tmp_path / SINGLE_FILE, weights)
    refuse(3, path, path.name, f"tensor {name}", "[0")


@pytest.mark.parametrize("size", "iojtdm")
def test_c60_a_model_that_is_empty_along_one_axis(size, refuse, tmp_path):
    path = save(tmp_path / SINGLE_FILE, of_sizes(**{size: 0}))
    refuse(3, path, path.name, "[", "0")


def test_c60_a_head_that_does_not_divide_the_width(refuse, tmp_path):
    path = save(tmp_path / SINGLE_FILE, of_sizes(d=48))
    refuse(3, path, path.name, "48", "128")


# ---- dtypes ----


def relabelled(weights: dict[str, np.ndarray], label: str) -> bytes:
    table, body = table_of(weights)
    return mk({n: e | {"dtype": label} for n, e in table.items()}, body)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("std", [0.005, 0.02, 0.1, 0.3])
@pytest.mark.parametrize("true, label", [(np.float16, "BF16"), (BF16, "F16")], ids=str)
def test_c61_mislabelled_bytes_are_noticed(true, label, std, mode, refuse, accept, tmp_path):
    path = tmp_path / SINGLE_FILE
    path.write_bytes(relabelled(models.tensors(dtype=true, spread=std), label))
    refuse(3, path, "tensor ", "--no-sanity", f"{label} its true dtype", options=("--mode", mode))
    if std == 0.02:
        accept(path, "--no-sanity", mode=mode)


SPREADS = {
    "normal": lambda r, n: r.standard_normal(n),
    "uniform": lambda r, n: r.uniform(-1.7, 1.7, n),
    "laplace": lambda r, n: r.laplace(size=n) / 1.4,
    "student-3": lambda r, n: r.standard_t(3, n),
    "outlier-channels": lambda r, n: r.standard_normal(n) * np.where(np.arange(n[-1]) % 97, 1, 30),
    "constant": lambda r, n: np.ones(n),
    "signs": lambda r, n: r.choice([-1.0, 1.0], n),
    "ternary": lambda r, n: r.choice([-1.0, 0.0, 1.0], n),
    "sparse-ternary": lambda r, n: r.choice([-1.0, 0.0, 1.0], n, p=[0.01, 0.98, 0.01]),
}


@pytest.mark.parametrize("solver", ["exact", "absmean"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [BF16, np.float16, np.float32], ids=["bf16", "f16", "f32"])
@pytest.mark.parametrize("spread", SPREADS)
def test_c61_honest_weights_are_not_refused(spread, dtype, mode, solver, tmp_path):
    kinds = {BF16: "BF16", np.float16: "F16", np.float32: "F32"}
    for std in (0.005, 0.02, 0.3, 1.0):
        w = (SPREADS[spread](np.random.default_rng(3), (64, 1024)) * std).astype(dtype)
        if spread == "sparse-ternary" and (mode, solver) != ("ternary", "exact"):
            continue  # nothing would be left of it: to refuse that is right
        finish(w, kinds[dtype], mode, solver, tmp_path)


def finish(w: np.ndarray, dtype: str, mode: Any, solver: str, folder: Path) -> Any:
    """Run one matrix through an Assembly with all its checks."""
    stored = StoredTensor(TensorSpec("x.weight", dtype, w.shape), folder / "x", 0)
    pieces = (Piece(stored, 0, len(w), 0),)
    planned = PlannedTensor(PackTensor("x.weight", w.shape, mode), "", pieces)
    data = w.view(np.uint16) if dtype == "BF16" else w
    bits = 2 if mode == "ternary" else 1
    return TensorQuantizer(planned, solver, bits, Checks(), False).add(
        Span(planned, stored, 0, len(w), 0), data
    )


@pytest.mark.parametrize("mode", MODES)
def test_c62_dtypes_may_be_mixed(mode, accept, tmp_path):
    """A bf16 source, and the same numbers in F32 and partly in F16, give the same weight files."""
    weights = tiny()
    made = {}
    half = {n: w.astype(np.float16) for n, w in weights.items()}
    exact = [n for n, w in half.items() if (w.astype("f4") == weights[n].astype("f4")).all()]
    assert 0 < len(exact) < len(weights)
    variants = {
        "bf16": weights,
        "f32": {n: w.astype(np.float32) for n, w in weights.items()},
        "mixed": weights
        | {n: half[n] for n in exact[::2]}
        | {n: weights[n].astype(np.float32) for n in exact[1::2]},
    }
    for name, variant in variants.items():
        path = save(tmp_path / name / SINGLE_FILE, variant)
        pack = accept(path, mode=mode, out=f"{name}-out").pack
        made[name] = (pack / SINGLE_FILE).read_bytes()
    assert made["bf16"] == made["f32"] == made["mixed"]


def test_c63_swapped_tensors_show_in_the_source_hash(accept, tmp_path):
    """Nothing in the file tells; the sha256 of the source, which the manifest records, does."""
    weights = tiny()
    other = MATRIX.replace("to_q", "to_k")
    said = []
    for k in range(2):
        path = save(tmp_path / str(k) / SINGLE_FILE, weights)
        manifest = json.loads((accept(path, out=f"out-{k}").pack / "manifest.json").read_text())
        said.append(manifest["source"]["files"][0]["sha256"])
        weights[MATRIX], weights[other] = weights[other], weights[MATRIX]
    assert said[0] != said[1]


# ---- more than 2^31 elements ----

ROWS, WIDTH = 1 << 20, 1 << 12


@pytest.fixture
def huge(tmp_path):
    """A sparse file with one bf16 matrix of 2^32 elements, whose last rows hold ones, and a NaN."""
    path = tmp_path / "huge.safetensors"
    header = mk({"x.weight": {"dtype": "BF16", "shape": [ROWS, WIDTH],
                              "data_offsets": [0, 2 * ROWS * WIDTH]}})  # fmt: skip
    with open(path, "wb") as file:
        file.write(header)
        file.seek(len(header) + 2 * (ROWS - 3) * WIDTH)
        tail = np.ones((3, WIDTH), BF16)
        tail[2, 17] = np.nan
        file.write(tail.tobytes())
    stored = StoredTensor(TensorSpec("x.weight", "BF16", (ROWS, WIDTH)), path, len(header))
    tensor = PackTensor("x.weight", (ROWS, WIDTH), "ternary")
    return stored, PlannedTensor(tensor, "", ())


def test_c64_blocks_beyond_2_31_elements(huge):
    stored, planned = huge
    fd = os.open(stored.path, os.O_RDONLY)
    info = os.fstat(fd)
    file = SourceFile("huge", stored.path, info.st_size, (0, 0, 0, 0))
    tracemalloc.start()
    seen = []
    tail = Span(planned, stored, ROWS - 5000, ROWS, ROWS - 5000)
    for span, data in pipeline._blocks(tail, fd, file):
        typed = pipeline._typed(span, data)
        assert typed.shape == (span.stop - span.start, WIDTH) and len(data) <= pipeline.BLOCK
        seen.append((span.start, span.stop))
        last = typed
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    os.close(fd)
    assert [a for a, _ in seen[1:]] == [b for _, b in seen[:-1]]
    assert (seen[0][0], seen[-1][1]) == (ROWS - 5000, ROWS)
    assert (as_float32(last)[-3:-1] == 1).all() and (as_float32(last)[:-3] == 0).all()
    assert peak < 4 * pipeline.BLOCK


def test_c64_elements_beyond_2_31_are_named(huge):
    stored, planned = huge
    fd = os.open(stored.path, os.O_RDONLY)
    file = SourceFile("huge", stored.path, os.fstat(fd).st_size, (0, 0, 0, 0))
    span = Span(planned, stored, ROWS - 3, ROWS, ROWS - 3)
    ((span, data),) = pipeline._blocks(span, fd, file)
    os.close(fd)
    assembly = TensorQuantizer(planned, "exact", 2, Checks(), False)
    with pytest.raises(BadInput, match=f"element {(ROWS - 1) * WIDTH + 17}: nan"):
        assembly.add(span, pipeline._typed(span, data))


def test_c64_the_header_of_a_huge_file_is_read_at_once(huge, refuse):
    stored, _ = huge
    refuse(4, stored.path, stored.path.name, within=1, options=MODE)
