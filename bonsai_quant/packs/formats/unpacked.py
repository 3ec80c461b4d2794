"""Dense bf16 weights in diffusers' layout: what any FLUX.2 tool loads, and `convert` packs again.

Each weight is s * t, exact in bf16. A group of zeros has no scale of its own left; it reads back
with the smallest one, which is what a conversion gives it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bonsai_quant.core.schema import GROUP, Mode, PackedLayer, PackInfo, PackTensor, TensorSpec
from bonsai_quant.packs import on_grid
from bonsai_quant.packs.manifest import Manifest
from bonsai_quant.quantization.bf16 import bf16_bits, from_bf16
from bonsai_quant.storage.containers.layout import Layout, safetensors_layout
from bonsai_quant.storage.containers.safetensors import read_header

from .format import Format, all_specs, json_bytes
from .inventory import Inventory, by_name, dense_inventory
from .kept import Kept, KeptWhole
from .legal import canonical_scales, refuse

ROWS = 1024
"""Rows decoded at a time: a layer of 28k rows would take 340 MB in float32."""


class UnpackedFormat(Format):
    """`transformer/diffusion_pytorch_model.safetensors`."""

    name = "unpacked"
    kept: Kept = KeptWhole("BF16")
    is_checkpoint = True
    library = "diffusers"

    def weights_path(self, mode: Mode) -> str:
        """Path of the weight file inside the pack's folder."""
        return "transformer/diffusion_pytorch_model.safetensors"

    def is_at(self, path: Path, listed: str | None) -> bool:
        """Whether our manifest says so, or the weights do: any checkpoint lies there."""
        return listed is not None or on_grid.is_on_grid(path)

    def inventory(self, path: Path, manifest: Manifest | None) -> Inventory:
        """See `Format`."""
        return dense_inventory(by_name(read_header(path).tensors), path, manifest)

    def parts(self, tensor: PackTensor, bits: int) -> list[TensorSpec]:
        """`.weight`, as in the source."""
        return [TensorSpec(tensor.name, "BF16", tensor.shape)]

    def encode(self, layer: PackedLayer) -> list[np.ndarray]:
        """s * t in bf16."""
        from bonsai_quant.quantization.dequantize import weights

        out = np.empty(layer.shape, np.uint16)
        for r in range(0, layer.shape[0], ROWS):
            out[r : r + ROWS] = bf16_bits(weights(layer, r, r + ROWS))
        return [out]

    def decode(
        self, name: str, shape: tuple[int, int], bits: int, parts: Sequence[np.ndarray]
    ) -> PackedLayer:
        """Inverse of `encode`; refuses a group that is not one scale times -1, 0 or +1."""
        from bonsai_quant.quantization.packing import pack

        codes = np.empty((shape[0], shape[1] * bits // 8), np.uint8)
        scales = np.empty((shape[0], shape[1] // GROUP), np.float32)
        for r in range(0, shape[0], ROWS):
            w = from_bf16(parts[0][r : r + ROWS]).reshape(-1, shape[1] // GROUP, GROUP)
            s = np.abs(w).max(-1)
            wrong = (np.abs(w) != s[..., None]) & ((w != 0) if bits == 2 else True)
            if wrong.any():
                row, group, j = (int(i) for i in np.argwhere(wrong)[0])
                refuse(
                    f"{name}.weight",
                    f"row {r + row}, column {group * GROUP + j}",
                    f"{w[row, group, j]:g} is not 0 or the group's scale",
                )
            levels = np.sign(w) + 1 if bits == 2 else w > 0
            codes[r : r + ROWS] = pack(levels.astype(np.uint8).reshape(-1, shape[1]), bits)
            scales[r : r + ROWS] = np.where(s == 0, np.float32(2.0**-14), s)
        return PackedLayer(name, shape, bits, codes, canonical_scales(scales, f"{name}.weight"))

    def dense(
        self, layer: PackedLayer, parts: Sequence[np.ndarray], start: int, stop: int
    ) -> np.ndarray:
        """The stored numbers; a zero that was rounded from below has no sign in other formats."""
        return from_bf16(parts[0][start:stop]) + np.float32(0)

    def layout(self, info: PackInfo) -> Layout:
        """One file, as diffusers' own writer names it."""
        return safetensors_layout(all_specs(self, info), {"format": "pt"})

    def sidecars(self, info: PackInfo) -> dict[str, bytes]:
        """The transformer's config."""
        return {"transformer/config.json": json_bytes(info.config)}
