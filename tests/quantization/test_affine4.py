"""Four bits per weight as MLX makes them: the same bits, scales and biases."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from bonsai_quant.quantization.affine4 import decode, not_finite, quantize
from bonsai_quant.quantization.bf16 import to_bf16


def weights(rng, kind, shape=(48, 640)):
    """Groups of many kinds, as float32."""
    w = rng.standard_normal(shape).astype(np.float32)
    return {
        "random": 0.02 * w,
        "constant": np.full(shape, 0.3, np.float32),
        "below zero": np.full(shape, -0.3, np.float32),
        "zero": np.zeros(shape, np.float32),
        "narrow": 1 + 1e-3 * w,
        "tiny": 1e-9 * w,
        "subnormal": 1e-38 * w,
        "outliers": w * np.exp(4 * rng.standard_normal(shape)).astype(np.float32),
        "large": 1e37 * w,
        "positive": np.abs(w),
        "integers": rng.integers(-8, 8, shape).astype(np.float32),
        "sparse": np.where(rng.random(shape) < 0.02, w, 0),
        "any bits": any_bits(rng, shape),
    }[kind]


KINDS = ("random", "constant", "below zero", "zero", "narrow", "tiny", "subnormal", "outliers",
         "large", "positive", "integers", "sparse", "any bits")  # fmt: skip


def any_bits(rng, shape):
    bits = rng.integers(0, 1 << 16, shape).astype(np.uint16)
    values = bits.view(ml_dtypes.bfloat16).astype(np.float32)
    return np.where(np.isfinite(values), values, 0).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_four_bits_are_mlxs_own(kind):
    mx = pytest.importorskip("mlx.core")
    for seed in range(3):
        w = weights(np.random.default_rng(seed), kind)
        with mx.stream(mx.cpu):
            theirs = mx.quantize(mx.array(w).astype(mx.bfloat16), group_size=64, bits=4)
            mx.eval(*theirs)
        words, scales, biases = quantize(to_bf16(w))
        assert np.array_equal(words, np.array(theirs[0]))
        assert np.array_equal(scales, np.array(theirs[1].view(mx.uint16)))
        assert np.array_equal(biases, np.array(theirs[2].view(mx.uint16)))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_rounding_to_bf16_is_that_of_ml_dtypes(dtype):
    rng = np.random.default_rng(0)
    w = rng.standard_normal(100_000) * np.exp(8 * rng.standard_normal(100_000))
    w = w[np.abs(w) < 6e4].astype(dtype)
    assert np.array_equal(to_bf16(w), w.astype(ml_dtypes.bfloat16).view(np.uint16))


def test_decoding_is_mlxs_in_float32():
    mx = pytest.importorskip("mlx.core")
    words, *parts = quantize(to_bf16(weights(np.random.default_rng(0), "outliers")))
    wide = [(p.astype(np.uint32) << 16).view(np.float32) for p in parts]
    with mx.stream(mx.cpu):
        theirs = mx.dequantize(mx.array(words), *map(mx.array, wide), group_size=64, bits=4)
        assert np.array_equal(decode(words, *wide), np.array(theirs))


def test_the_first_value_that_is_not_finite():
    w = np.ones((4, 64), np.float32)
    assert not_finite(to_bf16(w)) is None
    for bad in (np.nan, np.inf, -np.inf):
        w[2, 7] = bad
        assert not_finite(to_bf16(w)) == 2 * 64 + 7
