"""The real kernels of other projects, run on packed layers and compared with float64 products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .result import KernelCheck

if TYPE_CHECKING:
    from bonsai_quant.core.schema import PackTensor
    from bonsai_quant.packs.read import Pack


def check_pack(pack: Pack, tensors: Sequence[PackTensor]) -> list[KernelCheck]:
    """Run an mlx or gemlite pack's own kernels on some of its layers.

    The reference is s * t, decoded from the canonical form; the kernels get the stored arrays.
    """
    from bonsai_quant.quantization.dequantize import weights

    from . import gemlite, mlx

    stored = [pack.parts(t) for t in tensors]
    dense = [weights(pack.layer(t, p)) for t, p in zip(tensors, stored, strict=True)]
    names = [t.linear for t in tensors]
    if pack.format.name == "gemlite":
        pairs = [
            (gemlite.GemliteLayer(n, *p), w) for n, p, w in zip(names, stored, dense, strict=True)
        ]
        return gemlite.check_layers(pairs)
    return [
        mlx.check_layer(mlx.MlxLayer(n, words, scales, biases, pack.info.bits), w)
        for n, (words, scales, biases), w in zip(names, stored, dense, strict=True)
    ]
