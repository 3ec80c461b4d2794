"""The solvers that use second moments: each keeps the layer's outputs."""

from __future__ import annotations

import numpy as np
import pytest

from bonsai_quant.quantization import packing as bits
from bonsai_quant.quantization.dequantize import decoded
from bonsai_quant.quantization.hessian import Hessian
from bonsai_quant.quantization.solvers import solve
from bonsai_quant.quantization.solvers.weighted import scales as weighted_scales

MODES = ("ternary", "binary")


@pytest.fixture(scope="module")
def layer():
    """A layer with inputs that go together: weights, moments, and inputs not counted in them."""
    rng = np.random.default_rng(0)
    n = 384
    mix = rng.normal(size=(n, n)) * 0.5 / np.sqrt(n) + np.eye(n)
    x = rng.normal(size=(4096, n)) * np.exp(0.5 * rng.normal(size=n)) @ mix
    weight = (rng.normal(size=(96, n)) * 0.02).astype(np.float32)
    return weight, Hessian(x[:3072].T @ x[:3072] / 3072), x[3072:]


def dense(solved, mode):
    return decoded(solved.codes, solved.scales, 2 if mode == "ternary" else 1)


@pytest.mark.heavy
@pytest.mark.parametrize("mode", MODES)
def test_gptq_keeps_the_outputs_of_inputs_it_has_not_seen(layer, mode):
    weight, hessian, held_out = layer
    outputs = held_out @ weight.T
    off = {}
    for solver in ("exact", "weighted", "gptq"):
        solved = solve(weight, solver, mode, None, None if solver == "exact" else hessian)
        off[solver] = np.square(held_out @ dense(solved, mode).T - outputs).sum()
    assert off["gptq"] < 0.75 * off["weighted"] < 0.75 * off["exact"]


@pytest.mark.parametrize("mode", MODES)
def test_gptq_measures_what_it_did(layer, mode):
    weight, hessian, _ = layer
    solved = solve(weight, "gptq", mode, None, hessian)
    w, q = weight.astype(np.float64), dense(solved, mode).astype(np.float64)
    said = (w * w, (w - q) ** 2, w * q, q * q, q != 0)
    np.testing.assert_allclose(solved.sums, np.stack([s.sum(1) for s in said], 1), rtol=1e-9)
    assert set(np.unique(bits.unpack(solved.codes, 2 if mode == "ternary" else 1))) <= {0, 1, 2}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("solver", ["weighted", "gptq"])
def test_what_is_on_the_grid_stays(layer, mode, solver):
    _, hessian, _ = layer
    rng = np.random.default_rng(2)
    t = rng.choice((-1.0, 0.0, 1.0) if mode == "ternary" else (-1.0, 1.0), (16, 384))
    s = np.repeat(2.0 ** rng.integers(-6, -2, (16, 3)) * 1.5, 128, 1)
    weight = (s * t).astype(np.float32)
    assert np.array_equal(dense(solve(weight, solver, mode, None, hessian), mode), weight)


def test_the_weighted_scale_is_the_best_there_is():
    rng = np.random.default_rng(3)
    for _ in range(20):
        w = rng.standard_t(3, (1, 128)).astype(np.float32)
        h = np.exp(2 * rng.normal(size=128))
        found = weighted_scales(w, h, "ternary")[0, 0]

        def cost(s, w=w, h=h):
            t = np.sign(w[0]) * (np.abs(w[0]) > s / 2)
            return float((h * (w[0] - s * t) ** 2).sum())

        tried = min(cost(s) for s in np.linspace(0.01, 2 * np.abs(w).max(), 4000))
        assert cost(found) <= tried * (1 + 1e-9)
