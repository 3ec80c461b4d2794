"""The exact solver against brute force, the published error figures, and its edge cases."""

from __future__ import annotations

from itertools import product

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bonsai_quant.core.schema import BITS
from bonsai_quant.quantization import packing as bits
from bonsai_quant.quantization.grid import LARGEST, SMALLEST, on_grid, round_kept, round_to_grid
from bonsai_quant.quantization.solvers import SOLVERS, binary, nearest, solve, ternary


def as_bf16(values) -> np.ndarray:
    """float values -> bf16, as the uint16 that solvers take."""
    return np.asarray(values, np.float32).astype(ml_dtypes.bfloat16).view(np.uint16)


def to_float(raw: np.ndarray) -> np.ndarray:
    return raw.view(ml_dtypes.bfloat16).astype(np.float64)


def decode(solved, mode) -> np.ndarray:
    codes = bits.unpack(solved.codes, BITS[mode]).astype(np.float64)
    t = codes - 1 if mode == "ternary" else 2 * codes - 1
    return np.repeat(solved.scales.astype(np.float64), 128, axis=1) * t


def sorted_optimum(w: np.ndarray) -> np.ndarray:
    """Least ||w - s t||^2 of each group [n, 128], by sorting: ||w||^2 - max_k C_k^2 / k."""
    c = np.sort(np.abs(w), axis=1)[:, ::-1].cumsum(1)
    return (w**2).sum(1) - (c**2 / np.arange(1, 129)).max(1)


def error_at(w: np.ndarray, s: np.ndarray) -> np.ndarray:
    """||w - s t||^2 with the nearest ternary t, for one s per group [n]."""
    t = np.sign(w) * (np.abs(w) > s[:, None] / 2)
    return ((w - s[:, None] * t) ** 2).sum(1)


def draw(kind: str, n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shape = (n, 128)
    made = {
        "gaussian": lambda: rng.standard_normal(shape),
        "laplace": lambda: rng.laplace(size=shape),
        "student": lambda: rng.standard_t(2, shape),
        "uniform": lambda: rng.uniform(-1, 1, shape),
        "lognormal": lambda: rng.lognormal(0, 3, shape) * rng.choice([-1, 1], shape),
        "few values": lambda: rng.integers(-3, 4, shape) + 0.0,
        "one outlier": lambda: np.where(np.arange(128) == 5, 100.0, 1e-3 * rng.random(shape)),
        "two levels": lambda: rng.choice([-1.0, -0.5, 0.5, 1.0], shape),
        "powers": lambda: 2.0 ** rng.integers(-12, 1, shape),
    }
    return made[kind]() * 0.02


KINDS = ("gaussian", "laplace", "student", "uniform", "lognormal", "few values", "one outlier",
         "two levels", "powers")  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_ternary_reaches_the_optimum_found_by_sorting(kind):
    raw = as_bf16(draw(kind, 2000))
    w = to_float(raw)
    s = ternary.scales(raw)[:, 0]
    rounding_of_the_oracle = 1e-14 * (w**2).sum(1)
    assert np.all(error_at(w, s) <= sorted_optimum(w) + rounding_of_the_oracle)


@pytest.mark.parametrize("seed", range(3))
def test_ternary_is_the_best_of_all_codes(seed):
    """All 3^7 codes of seven weights; the other 121 are zeros, whose best code is zero."""
    rng = np.random.default_rng(seed)
    raw = np.zeros((20, 128), np.uint16)
    raw[:, :7] = as_bf16(rng.standard_t(3, (20, 7)))
    w = to_float(raw)
    codes = np.array([c for c in product((-1, 0, 1), repeat=7) if any(c)])
    dots = np.maximum(w[:, :7] @ codes.T, 0)
    least = (w**2).sum(1) - (dots**2 / np.abs(codes).sum(1)).max(1)
    assert np.allclose(error_at(w, ternary.scales(raw)[:, 0]), least, rtol=1e-12, atol=1e-300)


def test_binary_is_the_best_of_all_codes():
    """All 2^9 sign patterns times the best scale of each, in a group that repeats nine weights."""
    rng = np.random.default_rng(0)
    nine = as_bf16(rng.standard_normal((20, 9)))
    raw = np.concatenate([np.tile(nine, 14), nine[:, :2]], axis=1)
    w = to_float(raw)
    patterns = np.array(list(product((-1, 1), repeat=9)))
    full = np.concatenate([np.tile(patterns, 14), patterns[:, :2]], axis=1)
    least = (w**2).sum(1) - ((w @ full.T) ** 2 / 128).max(1)
    s = binary.scales(raw)
    assert np.allclose(((np.abs(w) - s) ** 2).sum(1), least, rtol=1e-12)


@pytest.mark.parametrize(("mode", "figure"), [("ternary", 0.1870), ("binary", 0.3605)])
def test_gaussian_weights_cost_what_theory_says(mode, figure):
    raw = as_bf16(np.random.default_rng(0).standard_normal((512, 1024)))
    solved = solve(raw, "exact", mode)
    sums = solved.sums.sum(0)
    assert sums[nearest.ERROR] / sums[nearest.ENERGY] == pytest.approx(figure, abs=0.001)


@pytest.mark.parametrize("mode", ["ternary", "binary"])
@pytest.mark.parametrize("kind", KINDS)
def test_rounding_the_scale_costs_less_than_its_own_step(mode, kind):
    """||w - r t||^2 <= optimum + k (r - s)^2, and r is within 2^-8 of s: half a step of 8 bits."""
    raw = as_bf16(draw(kind, 500) + 0.01)
    w = to_float(raw)
    solved = solve(raw, "exact", mode)
    s = (ternary if mode == "ternary" else binary).scales(raw)[:, 0]
    best = sorted_optimum(w) if mode == "ternary" else ((np.abs(w) - s[:, None]) ** 2).sum(1)
    error = ((w - decode(solved, mode)) ** 2).sum(1)
    assert np.all(error <= best + 128 * s**2 * 2.0**-16)


@pytest.mark.parametrize("mode", ["ternary", "binary"])
def test_measured_sums_are_those_of_the_decoded_weights(mode):
    raw = as_bf16(np.random.default_rng(1).standard_t(4, (64, 384)))
    w, solved = to_float(raw), solve(raw, "exact", mode)
    d = decode(solved, mode)
    expected = [
        (w**2).sum(1),
        ((w - d) ** 2).sum(1),
        (w * d).sum(1),
        (d**2).sum(1),
        (d != 0).sum(1),
    ]
    assert np.allclose(solved.sums, np.stack(expected, 1), rtol=1e-5)


@pytest.mark.parametrize("solver", [n for n, s in SOLVERS.items() if not s.needs_hessian])
@pytest.mark.parametrize("mode", ["ternary", "binary"])
def test_weights_on_the_grid_come_back_without_error(mode, solver):
    if (solver, mode) == ("absmean", "ternary"):
        pytest.skip("the mean of |s t| is not s")
    rng = np.random.default_rng(2)
    s, _ = round_to_grid(rng.lognormal(-4, 1, (50, 3)))
    t = rng.integers(-1, 2, (50, 384)) if mode == "ternary" else rng.choice([-1, 1], (50, 384))
    w = np.repeat(s, 128, 1) * t.astype(np.float32)
    solved = solve(w, solver, mode)
    assert np.array_equal(decode(solved, mode), w)
    assert solved.sums[:, nearest.ERROR].max() == 0


@pytest.mark.parametrize("mode", ["ternary", "binary"])
def test_dtypes_of_the_same_values_give_the_same_result(mode):
    raw = as_bf16(np.random.default_rng(3).standard_normal((8, 256)) * 0.02)
    a, b = solve(raw, "exact", mode), solve(to_float(raw).astype(np.float32), "exact", mode)
    assert np.array_equal(a.codes, b.codes)
    assert np.array_equal(a.scales, b.scales)


def test_other_dtypes_are_refused_rather_than_misread():
    with pytest.raises(TypeError, match="float64"):
        solve(np.ones((1, 128)), "exact", "ternary")


@pytest.mark.parametrize("mode", ["ternary", "binary"])
def test_rows_are_solved_alone(mode):
    raw = as_bf16(np.random.default_rng(4).standard_normal((40, 256)))
    whole = solve(raw, "exact", mode)
    for start, stop in ((0, 7), (7, 40)):
        part = solve(raw[start:stop], "exact", mode)
        assert np.array_equal(part.codes, whole.codes[start:stop])
        assert np.array_equal(part.scales, whole.scales[start:stop])
        assert np.array_equal(part.sums, whole.sums[start:stop])


def test_a_group_of_zeros_decodes_to_zeros_in_ternary():
    solved = solve(np.zeros((1, 128), np.uint16), "exact", "ternary")
    assert solved.scales[0, 0] == SMALLEST
    assert not decode(solved, "ternary").any()
    assert solved.below[0] == 1


def test_a_group_of_zeros_takes_the_smallest_scale_in_binary():
    solved = solve(np.zeros((1, 128), np.uint16), "exact", "binary")
    assert set(decode(solved, "binary").flat) == {SMALLEST}
    assert solved.below[0] == 1


@pytest.mark.parametrize("size", [1e-8, 5e-8, 1.1e-6, 3e-5, 2.0**-14, 2.0**-15, 1e-38, 1e-42])
@pytest.mark.parametrize("mode", ["ternary", "binary"])
def test_small_groups_stay_on_the_grid_and_near(size, mode):
    w = np.where(np.arange(128) % 2, size, -size).astype(np.float32)[None]
    solved = solve(w, "exact", mode)
    assert on_grid(solved.scales.astype(np.float32)).all()
    assert np.abs(decode(solved, mode) - w).max() <= SMALLEST


def test_ties_and_negative_zero():
    w = np.zeros((1, 128), np.float32)
    w[0, :4] = 1.0, -1.0, 0.5, -0.5
    w[0, 4] = -0.0
    packed, _ = nearest.assign(w, np.ones((1, 1), np.float32), "ternary")
    assert bits.unpack(packed, 2)[0, :6].tolist() == [2, 0, 1, 1, 1, 1]
    packed, _ = nearest.assign(w, np.ones((1, 1), np.float32), "binary")
    assert bits.unpack(packed, 1)[0, :6].tolist() == [1, 0, 1, 0, 1, 1]


def test_a_binary_layer_at_two_bits_uses_the_outer_codes():
    raw = as_bf16(np.random.default_rng(5).standard_normal((4, 128)))
    narrow, wide = solve(raw, "exact", "binary"), solve(raw, "exact", "binary", 2)
    assert np.array_equal(bits.unpack(wide.codes, 2), 2 * bits.unpack(narrow.codes, 1))
    assert np.array_equal(wide.scales, narrow.scales)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("mode", ["ternary", "binary"])
def test_weights_that_are_not_finite_never_give_a_finite_scale(value, mode):
    w = np.ones((1, 256), np.float32)
    w[0, 200] = value
    solved = solve(w, "exact", mode)
    assert np.isfinite(solved.scales[0, 0])
    assert not np.isfinite(solved.scales[0, 1])


def test_scales_beyond_the_grid_are_infinite():
    assert np.isinf(solve(np.full((1, 128), 1e5, np.float32), "exact", "ternary").scales).all()
    assert np.isinf(solve(np.full((1, 128), 4e4, np.float32), "exact", "binary").scales).all()


def test_absmean_is_bitnets():
    w = np.random.default_rng(6).standard_normal((16, 128)).astype(np.float32)
    s = np.abs(w).mean(1, dtype=np.float64)
    assert np.allclose(binary.scales(w)[:, 0], s, rtol=1e-12)
    solved = solve(w, "absmean", "ternary")
    r = solved.scales.astype(np.float32)
    assert np.array_equal(bits.unpack(solved.codes, 2), 1 + np.clip(np.rint(w / r), -1, 1))


@given(hnp.arrays(np.float32, (2, 128), elements=st.floats(-1e4, 1e4, width=32)))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_any_finite_group_is_solved_no_worse_than_by_sorting(w):
    s = ternary.scales(w)[:, 0]
    w64 = w.astype(np.float64)
    biggest = np.abs(w64).max(1)
    big = biggest > 2.0**-60
    # float32 magnitudes are compared to 2^-23 of the largest
    slack = 128 * (biggest * 2.0**-22) * biggest
    assert np.all(error_at(w64, s)[big] <= (sorted_optimum(w64) + slack)[big])


def test_the_grid_is_what_fp16_and_bf16_share():
    x = np.arange(0x0400, 0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    shared = x.astype(ml_dtypes.bfloat16).astype(np.float32) == x
    assert np.array_equal(on_grid(x), shared)
    rounded, _ = round_to_grid(x[x <= LARGEST].astype(np.float64))
    assert on_grid(rounded).all()


def test_kept_values_are_rounded_once_to_numbers_of_both():
    rng = np.random.default_rng(7)
    x = np.concatenate([rng.lognormal(-8, 6, 20000), [0.0, 2.0**-24, 2.0**-25, 65280.0]])
    x = (x * rng.choice([-1, 1], x.size)).astype(np.float32)
    x = x[np.abs(x) <= 65280]
    r = round_kept(x)
    assert np.array_equal(r.astype(np.float16).astype(np.float32), r)
    assert np.array_equal(r.astype(ml_dtypes.bfloat16).astype(np.float32), r)
    step = np.maximum(2.0**-24, 2.0 ** (np.frexp(x)[1] - 8.0))
    assert np.all(np.abs(r.astype(np.float64) - x) <= step / 2)
    exact = x.astype(ml_dtypes.bfloat16).astype(np.float32)
    exact = exact[(np.abs(exact) >= 2.0**-17) & (np.abs(exact) <= 65280)]
    assert np.array_equal(round_kept(exact), exact)
    assert np.isinf(round_kept(np.array([65500.0, -70000.0, np.inf], np.float32))).all()
