"""A linear in gemlite's layout, multiplied by gemlite's kernels or decoded, as the rule says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch

from bonsai_quant.core.schema import GROUP, PackTensor
from bonsai_quant.packs.formats import FORMATS
from bonsai_quant.packs.formats.gemlite import kernel_metadata
from bonsai_quant.packs.read import Pack
from bonsai_quant.runners.torch.packed_linear import RowsLinear, decode_on_device

from . import interpreted
from .rule import Way, way_of

PAD = 512
"""Values after the scales: kernels read whole blocks of outputs, at most so many, without a mask.
"""
INPUT, OUTPUT, META = 5, 6, 8
"""Places of dtypes in gemlite's arguments."""


class GemliteLinear(RowsLinear):
    """x [..., in] -> [..., out].

    parts: a layer as gemlite packs store it; of these three are kept on the device.
    W_q: [in * bits / 8, out] uint8.  scales, zeros: [in / 128, out] in the dtype computed in, which
    holds them exactly; weight = code * scale + zero.  metadata: gemlite's 12 arguments.
    ways: how many products went which way.
    """

    def __init__(
        self, parts: Sequence[np.ndarray], dtype: torch.dtype, device: torch.device,
        ways: Counter[Way] | None = None,
    ) -> None:  # fmt: skip
        w_q, scales, zeros = parts[:3]
        super().__init__(w_q.shape[1], scales.shape[0] * GROUP)
        self.bits = 8 * len(w_q) // self.in_features
        self.metadata = _arguments(self.bits, dtype)
        self.ways: Counter[Way] = Counter() if ways is None else ways
        self.register_buffer("W_q", torch.from_numpy(w_q.copy()).to(device))
        for name, array in (("scales", scales), ("zeros", zeros)):
            self.register_buffer(name, _padded(array, dtype, device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The product, in x's dtype."""
        rows = x.numel() // x.shape[-1]
        way = way_of(rows, self.out_features, self.in_features, self.bits)
        self.ways[way] += 1
        if way != "gemlite":
            return super().forward(x)
        y = self._by_gemlite(x, rows)
        return y if self.adapter is None else y + self.adapter(x)

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """s * t, from the same bytes."""
        codes = self.W_q[:, start:stop].T.contiguous()
        s = -self.zeros[:, start:stop].T.float()
        return decode_on_device(codes, s, self.bits)

    def _by_gemlite(self, x: torch.Tensor, rows: int) -> torch.Tensor:
        from gemlite import forward_functional

        kernel = interpreted.CHOICE_OF_GEMLITE
        if interpreted.is_asked_for():
            shape = (self.out_features, self.in_features)
            kernel = interpreted.choose(rows, shape, self.metadata)
        # The last stands where NVFP4 has one more scale; nothing reads it here.
        tensors = [self.W_q, self.scales, self.zeros, self.scales]
        y: torch.Tensor = forward_functional(x, None, tensors, self.metadata, kernel)
        return y


def from_pack(
    pack: Pack, tensor: PackTensor, dtype: torch.dtype, device: torch.device, ways: Counter[Way]
) -> GemliteLinear:
    """A layer of a pack in any format; a gemlite pack's bytes stay as they are, once checked."""
    parts = pack.parts(tensor)
    layer = pack.layer(tensor, parts)
    if pack.format.name != "gemlite":
        parts = FORMATS["gemlite"].encode(layer)
    return GemliteLinear(parts, dtype, device, ways)


def _arguments(bits: int, dtype: torch.dtype) -> list[int]:
    """Those that packs store, for activations and scales in `dtype`, whatever a pack says."""
    code = {torch.float16: 1, torch.bfloat16: 2}[dtype]
    arguments = [int(n) for n in kernel_metadata(bits)]
    for place in (INPUT, OUTPUT, META):
        arguments[place] = code
    return arguments


def _padded(array: np.ndarray, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """On the device, with room after it that may be read."""
    room = torch.zeros(array.size + PAD, dtype=dtype, device=device)
    held = room[: array.size].view(array.shape)
    return held.copy_(torch.from_numpy(array.astype(np.float32)))
