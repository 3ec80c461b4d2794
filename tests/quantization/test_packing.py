"""Packing: literal bytes, and every way back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bonsai_quant.quantization import packing as bits


def test_two_bits_to_the_byte():
    codes = np.array([[0, 1, 2, 0, 2, 2, 2, 2]], np.uint8)
    assert bits.pack(codes, 2).tolist() == [[0b00_10_01_00, 0b10_10_10_10]]


def test_one_bit_to_the_byte():
    codes = np.array([[1, 0, 0, 0, 0, 0, 1, 1]], np.uint8)
    assert bits.pack(codes, 1).tolist() == [[0b1100_0001]]


def test_base3_to_the_byte():
    codes = np.array([[0, 1, 2, 0, 1, 2, 2, 2]], np.uint8)
    expected = [[0 + 3 * 1 + 9 * 2 + 27 * 0 + 81 * 1, 2 + 3 * 2 + 9 * 2 + 27 * 1 + 81 * 1]]
    assert bits.to_base3(bits.pack(codes, 2), 8).tolist() == expected


@given(st.integers(1, 5), st.integers(1, 40), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_there_and_back(rows, quads, seed):
    codes = np.random.default_rng(seed).integers(0, 3, (rows, 4 * quads), np.uint8)
    packed = bits.pack(codes, 2)
    assert np.array_equal(bits.unpack(packed, 2), codes)
    trits = bits.to_base3(packed, 4 * quads)
    assert bits.illegal_base3(trits, 4 * quads) is None
    assert np.array_equal(bits.from_base3(trits, 4 * quads), packed)


@pytest.mark.parametrize("at", [0, 3, 4, 126, 127])
def test_the_illegal_code_is_found(at):
    codes = np.ones((2, 128), np.uint8)
    codes[1, at] = 3
    assert bits.illegal_code(bits.pack(codes, 2)) == 128 + at


def test_illegal_bytes_and_padding_are_found():
    trits = bits.to_base3(bits.pack(np.zeros((2, 128), np.uint8), 2), 128)
    assert bits.illegal_base3(trits, 128) is None
    high, pad = trits.copy(), trits.copy()
    high[1, 3], pad[1, -1] = 243, 0
    assert bits.illegal_base3(high, 128) == 26 + 3
    assert bits.illegal_base3(pad, 128) == 26 + 25
