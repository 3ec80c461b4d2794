"""Linears as a pack holds them, in MLX."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from bonsai_quant.core.schema import GROUP, PackedLayer
from bonsai_quant.packs.read import Pack

AT_ONCE = 1 << 22
"""Weights dequantized at a time on a CPU."""


class PackedLinear:
    """x [..., in] -> [..., out] from codes: words [out, in * bits / 32], scales, biases.

    A GPU multiplies by the codes. MLX's CPU kernels for that go token by token, so there some rows
    at a time are dequantized, which is exact, and multiplied as float32.
    """

    def __init__(self, layer: PackedLayer, dtype: mx.Dtype) -> None:
        s = layer.scales.astype(np.float32)
        self.bits, self.shape = layer.bits, layer.shape
        self.words = mx.array(np.ascontiguousarray(layer.codes).view("<u4"))
        self.scales = mx.array(s if layer.bits == 2 else 2 * s).astype(mx.bfloat16)
        self.biases = mx.array(-s).astype(mx.bfloat16)
        self.dtype = dtype

    def arrays(self) -> tuple[mx.array, ...]:
        """All that it holds."""
        return self.words, self.scales, self.biases

    def __call__(self, x: mx.array) -> mx.array:
        """The product, in x's dtype."""
        if mx.default_device() == mx.gpu:
            return mx.quantized_matmul(
                x, self.words, self.scales.astype(x.dtype), self.biases.astype(x.dtype),
                transpose=True, group_size=GROUP, bits=self.bits,
            )  # fmt: skip
        return mx.concatenate([x @ w.T for w in self._blocks()], axis=-1)

    def _blocks(self) -> Iterator[mx.array]:
        step = max(1, AT_ONCE // self.shape[1])
        for start in range(0, self.shape[0], step):
            rows = slice(start, start + step)
            scales, biases = (a[rows].astype(self.dtype) for a in (self.scales, self.biases))
            yield mx.dequantize(self.words[rows], scales, biases, group_size=GROUP, bits=self.bits)


class KeptLinear:
    """x [..., in] -> [..., out] from a weight in bfloat16, which holds what a pack keeps."""

    def __init__(self, weight: np.ndarray, dtype: mx.Dtype) -> None:
        self.weight = mx.array(weight.astype(np.float32)).astype(mx.bfloat16)
        self.dtype = dtype

    def arrays(self) -> tuple[mx.array, ...]:
        """All that it holds."""
        return (self.weight,)

    def __call__(self, x: mx.array) -> mx.array:
        """The product, in x's dtype."""
        return x @ self.weight.astype(self.dtype).T


Linear = PackedLinear | KeptLinear


@dataclass(frozen=True)
class Layers:
    """A transformer's linears by module name, and the weights [128] of its norms."""

    linears: dict[str, Linear]
    norms: dict[str, mx.array]

    def clear(self) -> None:
        """Let go of all of them."""
        self.linears.clear()
        self.norms.clear()


def load(pack: Pack, dtype: mx.Dtype) -> Layers:
    """Every tensor of a pack, codes as codes."""
    layers = Layers({}, {})
    for t in pack.info.tensors:
        if t.packed:
            linear: Linear = PackedLinear(pack.layer(t), dtype)
        elif len(t.shape) == 2:
            linear = KeptLinear(pack.kept(t), dtype)
        else:
            layers.norms[t.linear] = mx.array(pack.kept(t).astype(np.float32)).astype(dtype)
            continue
        layers.linears[t.linear] = linear
        # MLX copies when it computes: without this every layer's numpy arrays would stay.
        mx.eval(*linear.arrays())
    return layers
