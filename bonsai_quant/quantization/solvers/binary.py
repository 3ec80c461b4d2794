"""Binary: the true optimum of min ||w - s t||^2 per group, t in {-1,+1}: t = sign(w), s = mean |w|.

XNOR-Net, https://arxiv.org/abs/1603.05279, eq. 6. The same mean is BitNet b1.58's scale for ternary
codes (https://arxiv.org/abs/2402.17764, eq. 1-3): its RoundClip(w / s, -1, 1) is the nearest code
for that scale, up to ties. The solver `absmean` uses it in both modes, for comparison.
"""

from __future__ import annotations

import numpy as np

from bonsai_quant.core.schema import GROUP
from bonsai_quant.quantization.bf16 import raw_bits
from bonsai_quant.quantization.jit import kernel


def scales(weight: np.ndarray) -> np.ndarray:
    """weight: [rows, in], uint16 (bf16 bits) or float32 -> mean |w|: [rows, in / 128] float64.

    inf or NaN where a weight is not finite.
    """
    bits, shift = raw_bits(weight)
    out = np.empty((weight.shape[0], weight.shape[1] // GROUP), np.float64)
    _mean_magnitude(bits, shift, out)
    return out


@kernel
def _mean_magnitude(bits, shift, out):  # type: ignore[no-untyped-def]
    word = np.empty(128, np.uint32)
    real = word.view(np.float32)
    lanes = np.empty(8, np.float64)
    for r in range(out.shape[0]):
        for g in range(out.shape[1]):
            for j in range(128):
                w = np.uint32(bits[r, g * 128 + j]) << shift
                word[j] = w & np.uint32(0x7FFFFFFF)
            lanes[:] = 0.0
            for j in range(0, 128, 8):
                for i in range(8):
                    lanes[i] += np.float64(real[j + i])
            total = 0.0
            for i in range(8):
                total += lanes[i]
            out[r, g] = total / 128.0
