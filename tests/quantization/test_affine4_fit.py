"""4-bit codes by least squares: better than the range's, and right at the edges."""

from __future__ import annotations

import numpy as np
import pytest

from bonsai_quant.quantization.affine4 import decode, quantize
from bonsai_quant.quantization.affine4_fit import fit
from bonsai_quant.quantization.bf16 import from_bf16, to_bf16


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    """bf16 bits of numbers with a few outliers."""
    return to_bf16(np.random.default_rng(seed).standard_t(5, shape).astype(np.float32) * 0.02)


def error(bits: np.ndarray, parts: tuple[np.ndarray, ...]) -> np.ndarray:
    """Squared error of every group of 64."""
    words, scales, biases = parts
    off = decode(words, from_bf16(scales), from_bf16(biases)) - from_bf16(bits)
    return np.square(off, dtype=np.float64).reshape(len(bits), -1, 64).sum(-1)


def test_the_error_is_below_that_of_mlxs_rule():
    bits = weights(64, 512)
    ours, theirs = error(bits, fit(bits)), error(bits, quantize(bits))
    assert ours.sum() < 0.85 * theirs.sum()
    assert (ours <= theirs).mean() > 0.9


def test_no_line_nearby_is_much_better():
    bits = weights(1, 64, seed=3)
    least, w = error(bits, fit(bits))[0, 0], from_bf16(bits).astype(np.float64)
    low, high = w.min(), w.max()
    best = np.inf
    for a in np.linspace(0.5, 1.1, 61):
        for b in np.linspace(0.5, 1.1, 61):
            step = (a * high - b * low) / 15
            codes = np.clip(np.rint((w - b * low) / step), 0, 15)
            best = min(best, np.square(codes * step + b * low - w).sum())
    assert least < 1.15 * best


def test_codes_are_the_nearest_ones():
    bits = weights(8, 128)
    words, scales, biases = fit(bits)
    s, b = (np.repeat(from_bf16(a), 64, 1).astype(np.float64) for a in (scales, biases))
    codes = np.clip(np.rint((from_bf16(bits) - b) / s), 0, 15)
    shifts = np.arange(0, 32, 4, dtype=np.uint32)
    stored = (words[..., None] >> shifts & np.uint32(15)).reshape(codes.shape)
    assert (stored != codes).mean() < 1e-3  # ties


@pytest.mark.parametrize("value", [0.0, 3.0, -1e-38, 1e-45])
def test_groups_of_one_value_are_exact(value):
    bits = to_bf16(np.full((2, 64), value, np.float32))
    words, scales, biases = fit(bits)
    assert np.array_equal(decode(words, from_bf16(scales), from_bf16(biases)), from_bf16(bits))


def test_the_largest_numbers_stay_numbers():
    bits = to_bf16(np.array([[3e38, -3e38] * 32], np.float32))
    _, scales, biases = fit(bits)
    assert np.isfinite(from_bf16(scales)).all()
    assert np.isfinite(from_bf16(biases)).all()


def test_rows_and_smaller_groups_do_not_meet():
    bits = weights(6, 128)
    whole, parts = fit(bits, 32), [fit(bits[i : i + 2], 32) for i in range(0, 6, 2)]
    for i, array in enumerate(whole):
        assert np.array_equal(array, np.concatenate([p[i] for p in parts]))
    assert whole[1].shape == (6, 4)
