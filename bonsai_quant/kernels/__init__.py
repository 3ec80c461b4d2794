"""The real kernels of other projects, run on packed layers and compared with float64 products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .result import KernelCheck

if TYPE_CHECKING:
    from ..pack import Pack
    from ..schema import PackTensor


def check_pack(pack: Pack, tensors: Sequence[PackTensor]) -> list[KernelCheck]:
    """Run an mlx or gemlite pack's own kernels on some of its layers.

    The reference is s * t, decoded from the canonical form; the kernels get the stored arrays.
    """
    from ..dense import weights
    from . import gemlite, mlx

    layers = []
    for tensor in tensors:
        parts = pack.parts(tensor)
        layers.append((tensor.linear, parts, weights(pack.layer(tensor, parts))))
    if pack.format.name == "gemlite":
        return gemlite.check_layers([(gemlite.GemliteLayer(n, *p), r) for n, p, r in layers])
    return [mlx.check_layer(mlx.MlxLayer(n, *p, pack.info.bits), r) for n, p, r in layers]
