"""Group C: shapes and dtypes that cannot be packed, and those that only look so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bonsai_quant.conversion.checks import Checks
from bonsai_quant.conversion.quantize_tensor import TensorQuantizer
from bonsai_quant.core.schema import (
    PackTensor,
    Piece,
    PlannedTensor,
    Span,
    StoredTensor,
    TensorSpec,
)
from tests.support import models

from .conftest import (
    BF16,
    MATRIX,
    MODEL,
    MODES,
    NORM,
    SINGLE_FILE,
    bonsai,
    mk,
    save,
    table_of,
    tiny,
)

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
