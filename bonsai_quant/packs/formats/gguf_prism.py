"""Ternary GGUF files of the types that PrismML's fork of llama.cpp alone has.

Both have one fp16 scale to a block of 128 weights, like our groups, so that no scale stands twice:

    PQ2_0    142   d | 32 bytes, 2 bits each, lowest first; w = (code - 1) d
    PTQ1_0   143   24 bytes of five codes, 2 bytes of four | d

A byte of PTQ1_0 is ceil(256 q / 243), where the codes are the digits of q in base 3, the first the
most significant; four codes are followed by a 0. Its n-th code is (b 3^n mod 256) 3 / 256.
Weight 16 n + m is code n of byte m; 80 + 8 n + m of byte 16 + m; 120 + 2 n + m of byte 24 + m.
See ggml-common.h and ggml-quants.c of https://github.com/PrismML-Eng/llama.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bonsai_quant.core.schema import GROUP, Mode, PackedLayer

from .gguf import SCALE, GgufFormat
from .legal import canonical_scales, refuse
from .original import join, split

STAGES = ((5, 16), (5, 8), (4, 2))
"""Codes of a byte, and bytes, in the order in which they stand."""
TRITS = 5
BYTES = 26
"""Of a block's codes; its scale follows."""
ROWS = 1024
"""Rows packed at a time: each code takes a byte meanwhile."""


class GgufPq2Format(GgufFormat):
    """`diffusion-model-pq2_0.gguf`."""

    name = "gguf-pq2_0"
    modes: tuple[Mode, ...] = ("ternary",)
    packed: Mapping[Mode, str] = {"ternary": "PQ2_0"}
    file_type: Mapping[Mode, int] = {"ternary": 141}


class GgufPtq1Format(GgufFormat):
    """`diffusion-model-ptq1_0.gguf`."""

    name = "gguf-ptq1_0"
    modes: tuple[Mode, ...] = ("ternary",)
    packed: Mapping[Mode, str] = {"ternary": "PTQ1_0"}
    file_type: Mapping[Mode, int] = {"ternary": 143}

    def encode(self, layer: PackedLayer) -> list[np.ndarray]:
        """Code bytes and scale of each block, one after the other."""
        from bonsai_quant.quantization.packing import unpack

        out, n = layer.shape
        blocks = np.empty((out, n // GROUP, BYTES + SCALE), np.uint8)
        scales = np.ascontiguousarray(layer.scales.astype("<f2", copy=False))
        blocks[..., BYTES:] = scales.view(np.uint8).reshape(out, -1, SCALE)
        for r in range(0, out, ROWS):
            codes = unpack(layer.codes[r : r + ROWS], layer.bits)
            blocks[r : r + ROWS, :, :BYTES] = _to_bytes(codes.reshape(len(codes), -1, GROUP))
        return split(f"{layer.name}.weight", blocks.reshape(out, -1))

    def decode(
        self, name: str, shape: tuple[int, int], bits: int, parts: Sequence[np.ndarray]
    ) -> PackedLayer:
        """Inverse of `encode`; refuses bytes that stand for no codes, and scales off the grid."""
        from bonsai_quant.quantization.packing import pack

        out, n = shape
        blocks = join(f"{name}.weight", parts).reshape(out, n // GROUP, BYTES + SCALE)
        packed = np.empty((out, n * bits // 8), np.uint8)
        for r in range(0, out, ROWS):
            stored = blocks[r : r + ROWS, :, :BYTES]
            codes = _to_codes(stored)
            if (wrong := stored != _to_bytes(codes)).any():
                row, group, at = (int(i) for i in np.argwhere(wrong)[0])
                value = stored[row, group, at]
                refuse(f"{name}.weight", f"row {r + row}, group {group}, byte {at}",
                       f"{value} stands for no codes")  # fmt: skip
            packed[r : r + ROWS] = pack(codes.reshape(len(codes), n), bits)
        scales = np.ascontiguousarray(blocks[..., BYTES:]).view("<f2")[..., 0].astype(np.float32)
        exact = canonical_scales(np.ascontiguousarray(scales), f"{name}.weight")
        return PackedLayer(name, shape, bits, packed, exact)


def _to_bytes(codes: np.ndarray) -> np.ndarray:
    """[.., 128] codes 0, 1 and 2 -> [.., 26] uint8."""
    made, at = [], 0
    for n, width in STAGES:
        digits = codes[..., at : at + n * width].reshape(*codes.shape[:-1], n, width)
        weights = 3 ** np.arange(TRITS - 1, TRITS - 1 - n, -1)
        q = (digits * weights[:, None].astype(np.uint16)).sum(-2, dtype=np.uint32)
        made.append(((q * 256 + 242) // 243).astype(np.uint8))
        at += n * width
    return np.concatenate(made, -1)


def _to_codes(stored: np.ndarray) -> np.ndarray:
    """[.., 26] uint8 -> [.., 128] codes; what they are of bytes that hold none does not matter."""
    made, at = [], 0
    for n, width in STAGES:
        part = stored[..., None, at : at + width]
        digits = part * (3 ** np.arange(n))[:, None].astype(np.uint8)
        made.append((digits.astype(np.uint16) * 3 >> 8).astype(np.uint8))
        made[-1] = made[-1].reshape(*stored.shape[:-1], n * width)
        at += width
    return np.concatenate(made, -1)
