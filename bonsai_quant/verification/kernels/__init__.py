"""The real kernels of other projects, run on packed layers and compared with float64 products.

A format whose clients have kernels of their own has a file of its name here, with `check_pack`.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from bonsai_quant.packs.formats import FORMATS

from .result import KernelCheck

if TYPE_CHECKING:
    from bonsai_quant.core.schema import PackTensor
    from bonsai_quant.packs.read import Pack

KERNELS = tuple(name for name, row in FORMATS.items() if row.has_kernel)
"""Formats that have such a file."""


def check_pack(pack: Pack, tensors: Sequence[PackTensor]) -> list[KernelCheck]:
    """Run the kernels of a pack's own format on some of its layers.

    The reference is s * t, decoded from the canonical form; the kernels get the stored arrays.
    """
    kernel = import_module(f"{__name__}.{pack.format.name}")
    checks: list[KernelCheck] = kernel.check_pack(pack, tensors)
    return checks
