"""Choose every code for a given scale, measure what that costs, and pack, in one pass."""

from __future__ import annotations

import numpy as np

from bonsai_quant.core.schema import BITS, Mode
from bonsai_quant.quantization.bf16 import raw_bits
from bonsai_quant.quantization.grid import LARGEST, LARGEST_BINARY, round_to_grid
from bonsai_quant.quantization.jit import kernel

from .solver import Solved

# Columns of the row sums that `assign` measures, all float64.
ENERGY, ERROR, DOT, RECONSTRUCTED, NONZERO = range(5)


def with_nearest_codes(weight: np.ndarray, scales: np.ndarray, mode: Mode, bits: int) -> Solved:
    """scales: [rows, in / 128] float64, not yet on the grid -> the rows, with their best codes.

    A scale is rounded to the grid once, then the codes are chosen for the rounded one. A scale
    above the grid becomes inf.
    """
    rounded, below = round_to_grid(scales, LARGEST if mode == "ternary" else LARGEST_BINARY)
    codes, sums = assign(weight, rounded, mode, bits)
    with np.errstate(over="ignore"):
        return Solved(codes, rounded.astype(np.float16), sums, below.sum(1))


def assign(
    weight: np.ndarray, scales: np.ndarray, mode: Mode, bits: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest codes: ternary 0 where |w| <= s/2, otherwise the sign; binary +1 where w >= 0.

    weight: [rows, in], uint16 (bf16 bits) or float32.
    scales: [rows, in / 128] float32 on the grid.
    bits: width of a stored code; a binary layer stored at 2 bits uses the codes 0 and 2.
    -> codes [rows, in * bits / 8] uint8, and row sums [rows, 5] float64: ||w||^2, ||w - s t||^2,
    <w, s t>, ||s t||^2, number of nonzero t.
    """
    bits = bits or BITS[mode]
    raw, shift = raw_bits(weight)
    rows, n = weight.shape
    packed = np.empty((rows, n * bits // 8), np.uint8)
    sums = np.zeros((rows, 5), np.float64)
    run = _pack2 if bits == 2 else _pack1
    run(raw, shift, scales, np.float32(0.5 if mode == "ternary" else 0.0), packed, sums)
    return packed, sums


@kernel
def _load(raw, shift, r, start, word):  # type: ignore[no-untyped-def]
    for j in range(128):
        word[j] = np.uint32(raw[r, start + j]) << shift


@kernel
def _measure(real, s, threshold, lanes):  # type: ignore[no-untyped-def]
    """Add one group to its row's 128 lanes; lane j always holds channels j mod 128, in order, so
    that the sums do not depend on the machine's vector width. Separate loops vectorise best."""
    zero, one = np.float32(0.0), np.float32(1.0)
    for j in range(128):
        lanes[ENERGY, j] += real[j] * real[j]
    for j in range(128):
        x = abs(real[j])
        off = x - (s if x > threshold else zero)
        lanes[ERROR, j] += off * off
    for j in range(128):
        x = abs(real[j])
        lanes[DOT, j] += s * x if x > threshold else zero
    for j in range(128):
        lanes[RECONSTRUCTED, j] += s * s if abs(real[j]) > threshold else zero
    for j in range(128):
        lanes[NONZERO, j] += one if abs(real[j]) > threshold else zero


@kernel
def _finish_row(lanes, sums):  # type: ignore[no-untyped-def]
    for column in range(5):
        total = 0.0
        for j in range(128):
            total += np.float64(lanes[column, j])
        sums[column] = total
    lanes[:] = np.float32(0.0)


@kernel
def _ternary_codes(real, threshold, code):  # type: ignore[no-untyped-def]
    one, zero = np.int32(1), np.int32(0)
    for j in range(128):
        up = one if real[j] > threshold else zero
        down = one if real[j] < -threshold else zero
        code[j] = np.uint8(one + up - down)


@kernel
def _binary_codes(real, high, code):  # type: ignore[no-untyped-def]
    for j in range(128):
        code[j] = high if real[j] >= np.float32(0.0) else np.uint8(0)


@kernel
def _pack2(raw, shift, scales, cut, packed, sums):  # type: ignore[no-untyped-def]
    word = np.empty(128, np.uint32)
    real = word.view(np.float32)
    code = np.empty(128, np.uint8)
    four = code.view(np.uint32)
    lanes = np.zeros((5, 128), np.float32)
    for r in range(scales.shape[0]):
        for g in range(scales.shape[1]):
            _load(raw, shift, r, g * 128, word)
            s = scales[r, g]
            if cut > np.float32(0.0):
                threshold = s * cut  # exact: cut is 1/2
                _ternary_codes(real, threshold, code)
            else:
                threshold = np.float32(-1.0)  # every weight counts
                _binary_codes(real, np.uint8(2), code)
            for b in range(32):
                w = four[b]
                w |= (w >> np.uint32(6)) | (w >> np.uint32(12)) | (w >> np.uint32(18))
                packed[r, g * 32 + b] = np.uint8(w & np.uint32(0xFF))
            _measure(real, s, threshold, lanes)
        _finish_row(lanes, sums[r])


@kernel
def _pack1(raw, shift, scales, cut, packed, sums):  # type: ignore[no-untyped-def]
    word = np.empty(128, np.uint32)
    real = word.view(np.float32)
    code = np.empty(128, np.uint8)
    lanes = np.zeros((5, 128), np.float32)
    for r in range(scales.shape[0]):
        for g in range(scales.shape[1]):
            _load(raw, shift, r, g * 128, word)
            _binary_codes(real, np.uint8(1), code)
            for b in range(16):
                byte = np.uint8(0)
                for i in range(8):
                    byte |= np.uint8(code[8 * b + i] << np.uint8(i))
                packed[r, g * 16 + b] = byte
            _measure(real, scales[r, g], np.float32(-1.0), lanes)
        _finish_row(lanes, sums[r])
