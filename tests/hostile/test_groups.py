"""Group C: groups of weights, against oracles in plain float64."""

from __future__ import annotations

import json
import math
import os
import warnings
from typing import Any

import numpy as np
import pytest

from bonsai_quant.conversion import stream as pipeline
from bonsai_quant.core.schema import PackedLayer
from bonsai_quant.quantization import dequantize as dense
from bonsai_quant.quantization.solvers import solve

from .conftest import BF16, LEAST, MATRIX, MODES, SINGLE_FILE, bonsai, save, tiny


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


@pytest.mark.heavy
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
