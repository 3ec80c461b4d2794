"""The canonical format: 1.6 or 1 bit per code, fp16 scales and kept tensors. The smallest.

Per packed linear NAME: `NAME.codes` U8, base 3 [out, ceil(in / 5)] or 1 bit [out, in / 8], and
`NAME.scales` F16 [out, in / 128]. Kept tensors: `NAME.weight` F16.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bonsai_quant.core.schema import GROUP, Mode, PackedLayer, PackInfo, PackTensor, TensorSpec
from bonsai_quant.packs.manifest import Manifest
from bonsai_quant.storage.containers.layout import Layout, safetensors_layout
from bonsai_quant.storage.containers.safetensors import read_header

from .format import Format, all_specs, json_bytes
from .inventory import Inventory, by_name, packed_inventory
from .kept import Kept, KeptWhole
from .legal import canonical_scales, refuse

FORMAT_VERSION = 1


class BonsaiFormat(Format):
    """`bonsai/model.safetensors`, format version 1."""

    name = "bonsai"
    kept: Kept = KeptWhole("F16")
    by_default = True

    def weights_path(self, mode: Mode) -> str:
        """Path of the weight file inside the pack's folder."""
        return "model.safetensors"

    def inventory(self, path: Path, manifest: Manifest | None) -> Inventory:
        """See `Format`."""
        stored = by_name(read_header(path).tensors)
        return packed_inventory(stored, path, manifest, mark=".codes", codes=".codes", size=_size)

    def parts(self, tensor: PackTensor, bits: int) -> list[TensorSpec]:
        """`.codes` and `.scales`."""
        out, n = tensor.shape
        width = -(-n // 5) if bits == 2 else n // 8
        return [
            TensorSpec(f"{tensor.linear}.codes", "U8", (out, width)),
            TensorSpec(f"{tensor.linear}.scales", "F16", (out, n // GROUP)),
        ]

    def encode(self, layer: PackedLayer) -> list[np.ndarray]:
        """Codes at 2 bits become base 3; codes at 1 bit are stored as they are."""
        from bonsai_quant.quantization.packing import to_base3

        codes = layer.codes if layer.bits == 1 else to_base3(layer.codes, layer.shape[1])
        return [codes, layer.scales]

    def decode(
        self, name: str, shape: tuple[int, int], bits: int, parts: Sequence[np.ndarray]
    ) -> PackedLayer:
        """Inverse of `encode`; refuses bytes above 242, wrong padding and scales off the grid."""
        from bonsai_quant.quantization.packing import from_base3, illegal_base3

        codes, scales = parts
        if bits == 2:
            if (at := illegal_base3(codes, shape[1])) is not None:
                row, byte = divmod(at, codes.shape[1])
                refuse(
                    f"{name}.codes",
                    f"row {row}, byte {byte}",
                    f"{codes[row, byte]} is not five ternary codes",
                )
            codes = from_base3(codes, shape[1])
        exact = canonical_scales(scales.astype(np.float32), f"{name}.scales")
        return PackedLayer(name, shape, bits, codes, exact)

    def layout(self, info: PackInfo) -> Layout:
        """One file; a single metadata key, so that its bytes do not depend on hash order."""
        about = {
            "base": info.base,
            "config": info.config,
            "format": self.name,
            "format_version": FORMAT_VERSION,
            "group_size": GROUP,
            "mode": info.mode,
        }
        metadata = {"bonsai_quant": json.dumps(about, sort_keys=True, separators=(",", ":"))}
        return safetensors_layout(all_specs(self, info), metadata)

    def sidecars(self, info: PackInfo) -> dict[str, bytes]:
        """The transformer's config, as diffusers reads it."""
        return {"config.json": json_bytes(info.config)}


def _size(codes: tuple[int, ...], scales: tuple[int, ...]) -> tuple[int, int, int]:
    n = scales[1] * GROUP
    return codes[0], n, 1 if codes[1] == n // 8 else 2
