"""gptq: lower than the algorithm it was, on every kind of layer, and sound at the edges."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from bonsai_quant.quantization.grid import LARGEST, on_grid, round_to_grid  # noqa: E402
from bonsai_quant.quantization.hessian import Hessian  # noqa: E402
from bonsai_quant.quantization.solvers import columns, columns_torch, gptq  # noqa: E402
from tests.support.gptq_reference import reference  # noqa: E402

MODES = ("ternary", "binary")
N = 384
SLACK = 1e-4
"""Codes are changed for the best scale, which is rounded to the grid at the end."""


def inputs(kind: str) -> np.ndarray:
    """Inputs of a layer, [tokens, 384]."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100 if kind == "few tokens" else 2000, N))
    x = x * np.exp(0.5 * rng.normal(size=N)) @ (rng.normal(size=(N, N)) * 0.03 + np.eye(N))
    if kind == "outliers":
        x[:, [5, 200]] *= 300
    if kind == "zero columns":
        x[:, 100:300] = 0
    if kind == "low rank":
        x += 3 * rng.normal(size=(len(x), 20)) @ rng.normal(size=(20, N))
    return x


def layer(kind: str) -> tuple[torch.Tensor, Hessian]:
    x = inputs(kind)
    weight = np.random.default_rng(1).standard_t(5, (48, N)) * 0.02
    return torch.from_numpy(weight).float(), Hessian(torch.from_numpy(x.T @ x / len(x)).float())


def objective(weight, hessian, chosen) -> np.ndarray:
    return gptq.objective(weight, hessian, chosen.codes, chosen.scales).numpy()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["plain", "few tokens", "outliers", "zero columns", "low rank"])
def test_the_objective_is_lower_than_it_was(kind, mode):
    weight, hessian = layer(kind)
    was = reference(weight.double().numpy(), hessian.damped.double().numpy(), mode)
    now = objective(weight, hessian, gptq.choose(weight, hessian, mode))
    # Where half the columns have no input, either may end a little lower.
    assert now.sum() < was.sum() * (1.01 if kind == "zero columns" else 1)


@pytest.mark.parametrize("mode", MODES)
def test_every_pass_lowers_the_objective(mode, monkeypatch):
    monkeypatch.setattr(gptq, "SEARCHES", 0)
    weight, hessian = layer("plain")
    errors = []
    for passes in range(6):
        monkeypatch.setattr(gptq, "PASSES", passes)
        errors.append(objective(weight, hessian, gptq.choose(weight, hessian, mode)))
    for before, after in zip(errors, errors[1:], strict=False):
        assert (after <= before * (1 + 1e-5)).all()
    assert errors[-1].sum() < errors[1].sum() < 0.95 * errors[0].sum()


@pytest.mark.parametrize("mode", MODES)
def test_nothing_alone_could_be_changed_for_the_better(mode, monkeypatch):
    monkeypatch.setattr(gptq, "PASSES", 40)
    monkeypatch.setattr(gptq, "SEARCHES", 0)
    weight, hessian = layer("plain")
    weight = weight[:4]
    chosen = gptq.choose(weight, hessian, mode)
    best = objective(weight, hessian, chosen)
    for i in np.random.default_rng(1).choice(N, 60, replace=False):
        for value in (-1, 0, 1) if mode == "ternary" else (-1, 1):
            codes = chosen.codes.clone()
            codes[:, i] = value
            other = gptq.objective(weight, hessian, codes, chosen.scales).numpy()
            assert (other >= best * (1 - SLACK)).all()
    for factor in (1 - 2**-7, 1 + 2**-7):
        for g in range(N // 128):
            scales = chosen.scales.clone()
            scales[:, g] = torch.from_numpy(
                round_to_grid(scales[:, g].double().numpy() * factor)[0]
            )
            other = gptq.objective(weight, hessian, chosen.codes, scales).numpy()
            assert (other >= best * (1 - SLACK)).all()


@pytest.mark.parametrize("mode", MODES)
def test_rows_do_not_meet(mode, monkeypatch):
    weight, hessian = layer("outliers")
    whole = objective(weight, hessian, gptq.choose(weight, hessian, mode))
    monkeypatch.setattr(gptq, "WORK_BYTES", 7 * gptq.BYTES_AN_INPUT * N)
    parts = gptq.choose(weight, hessian, mode)
    assert parts.codes.shape == weight.shape
    np.testing.assert_allclose(objective(weight, hessian, parts).sum(), whole.sum(), rtol=1e-2)


@pytest.mark.parametrize("mode", MODES)
def test_zeros_and_what_no_scale_can_hold(mode):
    weight, hessian = layer("plain")
    expected = gptq.choose(weight[3:], hessian, mode)
    weight[0] = 0
    weight[1, 128:256] = 0
    weight[2] = 1e6
    chosen = gptq.choose(weight, hessian, mode)
    assert (chosen.codes[0] == 0).all() or mode == "binary"
    assert chosen.below[0].all() and chosen.below.sum() == 3
    assert chosen.scales[2].isinf().all() and chosen.scales[[0, 1, *range(3, 48)]].isfinite().all()
    assert on_grid(chosen.scales[3:].numpy().copy()).all()
    ours, theirs = (objective(weight[3:], hessian, c) for c in (
        gptq.Chosen(chosen.codes[3:], chosen.scales[3:], chosen.below[3:]), expected))  # fmt: skip
    np.testing.assert_allclose(ours.sum(), theirs.sum(), rtol=1e-2)


def test_no_moments_at_all():
    weight, _ = layer("plain")
    chosen = gptq.choose(weight, Hessian(torch.zeros(N, N)), "ternary")
    assert chosen.scales.isfinite().all() and (chosen.codes != 0).any()


def test_scales_round_as_those_of_every_solver():
    s = np.exp(np.random.default_rng(0).uniform(-11, np.log(LARGEST), 5000)).astype(np.float32)
    s[:3] = 0, 1 + 2**-8, 1 + 3 * 2**-8
    found, below = gptq.on_grid(torch.from_numpy(s))
    expected, too_small = round_to_grid(s.astype(np.float64))
    assert (found.numpy() == expected).all() and (below.numpy() == too_small).all()


@pytest.mark.parametrize("mode", MODES)
def test_a_gpu_is_told_the_same(mode):
    """The torch that runs on a GPU, run here, against the compiled loops."""
    weight, hessian = layer("plain")
    w, h, factor = weight[:, :128], hessian.damped[:128, :128], hessian.factor[:128, :128]
    s = torch.full((len(w),), 0.02)
    passed = 0.01 * torch.randn(w.shape, generator=torch.Generator().manual_seed(0))
    codes = columns.round_group(w, passed, factor, s, mode)
    same = columns_torch.round_group(w, passed, factor, s, mode == "ternary") == codes
    assert same.float().mean() > 0.99
    costs = []
    for descend, told in (
        (columns.descend_group, (mode, 16)),
        (columns_torch.descend_group, (mode == "ternary", columns.largest(mode),
                                       columns.TENURE, columns.MOST_STEPS, 16)),
    ):  # fmt: skip
        t, scales = codes.clone(), s.clone()
        d = w - s[:, None] * t
        descend(w @ h, t.float() @ h, h, scales, t, *told)
        off = w - scales[:, None] * t
        costs.append(((off @ h) * off).sum(1))
        assert (costs[-1] < ((d @ h) * d).sum(1)).all()
    assert ((costs[0] - costs[1]).abs() < 1e-4 * costs[0]).float().mean() > 0.9
    np.testing.assert_allclose(costs[0].sum(), costs[1].sum(), rtol=1e-2)


def test_a_hessian_of_an_array_or_a_tensor():
    x = inputs("few tokens")
    h = x.T @ x / len(x)
    array, tensor = Hessian(h), Hessian(torch.from_numpy(h))
    np.testing.assert_allclose(array.importance, tensor.importance)
    damped = h + 0.01 * np.diag(h).mean() * np.eye(N)
    np.testing.assert_allclose(array.damped, damped, rtol=1e-6)
    factor = tensor.factor
    assert (factor.tril(-1) == 0).all()
    np.testing.assert_allclose(factor @ factor.T, damped, atol=1e-5 * damped.max())
    row = torch.randn(3, N, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(tensor.divide(row) @ tensor.damped, row, atol=1e-3)


def test_a_factor_that_float32_cannot_find():
    hessian = Hessian(torch.ones(N, N), damping=1e-8)
    _, failed = torch.linalg.cholesky_ex(hessian.damped)
    assert failed
    product = hessian.factor.double() @ hessian.factor.double().T
    np.testing.assert_allclose(product, np.ones((N, N)), atol=1e-6)


def test_other_solvers_need_no_torch():
    code = (
        "import sys, numpy as np\n"
        "from bonsai_quant.quantization.hessian import Hessian\n"
        "from bonsai_quant.quantization.solvers import solve\n"
        "solve(np.ones((1, 128), np.float32), 'weighted', 'binary', 1, Hessian(np.eye(128)))\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
