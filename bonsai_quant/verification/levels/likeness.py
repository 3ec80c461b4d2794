"""A pack without a record of how it was made, beside its source: is it the same model?

Training moves codes and scales, so they cannot be expected to be equal. But layers stay themselves:
the released ternary weights have a cosine of 0.88 with their source, the binary ones 0.77; where
error feedback chose the codes it is less, down to 0.38 in a binary mini-klein. Another layer in a
layer's place has a cosine of about 0, and so have exchanged halves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bonsai_quant.packs.read import Pack

if TYPE_CHECKING:
    from bonsai_quant.conversion.quantize_tensor import QuantizedTensor

LEAST_COSINE = 0.2
MOST_RATIO = 8.0
"""Furthest that a group's scale may be from the best one for the source, up or down."""


def unlike(pack: Pack, quantized: QuantizedTensor) -> tuple[float, str]:
    """Cosine of a pack's tensor and the source's, and what is wrong with it, or ''.

    quantized: the source's tensor, rounded to the pack's mode.
    """
    from bonsai_quant.quantization.dequantize import weights, zero_groups

    tensor = quantized.planned.tensor
    if quantized.kept is not None:
        cosine = _cosine(pack.kept(tensor), quantized.kept)
        return cosine, "" if cosine >= LEAST_COSINE else _too_low(cosine)
    assert quantized.layer is not None
    layer = pack.layer(tensor)
    cosine = _cosine(weights(layer), weights(quantized.layer))
    if cosine < LEAST_COSINE:
        return cosine, _too_low(cosine)
    ratio = layer.scales.astype(np.float32) / quantized.layer.scales.astype(np.float32)
    wrong = ((ratio > MOST_RATIO) | (ratio < 1 / MOST_RATIO)) & ~zero_groups(layer)
    if wrong.any():
        row, group = (int(i) for i in np.argwhere(wrong)[0])
        return cosine, (
            f"row {row}, group {group}: scale {layer.scales[row, group]:g} is "
            f"{ratio[row, group]:.3g} times the best one for the source"
        )
    return cosine, ""


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    x, y = (v.reshape(-1).astype(np.float32) for v in (a, b))
    size = float(np.linalg.norm(x)) * float(np.linalg.norm(y))
    return float(np.dot(x, y)) / size if size else 1.0


def _too_low(cosine: float) -> str:
    return (
        f"has a cosine of {cosine:.3f} with the source's; the same layer after any training "
        f"has at least {LEAST_COSINE}"
    )
