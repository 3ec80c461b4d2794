"""Codes and scales in the file that diffusers opens, for our plug-in `bonsai_quant.diffusers`.

Per packed linear NAME, whose weight is [out, in]:

    NAME.codes    U8 [out, in * bits / 8], codes of 2 bits (0, 1, 2) or 1, lowest bits first
    NAME.scales   F16 [out, in / 128] = s; weight = s * (code - 1), or s * (2 * code - 1)

Kept tensors: BF16.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bonsai_quant.core.errors import BadInput
from bonsai_quant.core.schema import (
    BITS,
    GROUP,
    Mode,
    PackedLayer,
    PackInfo,
    PackTensor,
    TensorSpec,
)
from bonsai_quant.packs.manifest import Manifest
from bonsai_quant.storage.containers.layout import Layout, safetensors_layout
from bonsai_quant.storage.containers.safetensors import read_header

from .format import Format, all_specs, json_bytes
from .inventory import Inventory, by_name, packed_inventory
from .kept import Kept, KeptWhole
from .legal import canonical_scales, check_codes

METHOD = "bonsai"
"""What `quant_method` in the transformer's config says."""


class DiffusersFormat(Format):
    """`transformer/diffusion_pytorch_model.safetensors`, and in its config how it is stored."""

    name = "diffusers"
    kept: Kept = KeptWhole("BF16")
    library = "diffusers"

    def weights_path(self, mode: Mode) -> str:
        """Path of the weight file inside the pack's folder."""
        return "transformer/diffusion_pytorch_model.safetensors"

    def is_at(self, path: Path, listed: str | None) -> bool:
        """Whether our manifest says so, or layers in the file have codes."""
        return listed == self.name or (not listed and _has_codes(path))

    def inventory(self, path: Path, manifest: Manifest | None) -> Inventory:
        """See `Format`."""
        stored = by_name(read_header(path).tensors)
        return packed_inventory(stored, path, manifest, mark=".codes", codes=".codes", size=_size)

    def parts(self, tensor: PackTensor, bits: int) -> list[TensorSpec]:
        """`.codes` and `.scales`."""
        out, n = tensor.shape
        return [
            TensorSpec(f"{tensor.linear}.codes", "U8", (out, n * bits // 8)),
            TensorSpec(f"{tensor.linear}.scales", "F16", (out, n // GROUP)),
        ]

    def encode(self, layer: PackedLayer) -> list[np.ndarray]:
        """Both as they are."""
        return [layer.codes, layer.scales]

    def decode(
        self, name: str, shape: tuple[int, int], bits: int, parts: Sequence[np.ndarray]
    ) -> PackedLayer:
        """Inverse of `encode`; refuses code 3 and scales off the grid."""
        codes, scales = parts
        check_codes(codes, bits, f"{name}.codes")
        exact = canonical_scales(scales.astype(np.float32), f"{name}.scales")
        return PackedLayer(name, shape, bits, codes, exact)

    def layout(self, info: PackInfo) -> Layout:
        """One file, as diffusers' own writer names it."""
        return safetensors_layout(all_specs(self, info), {"format": "pt"})

    def sidecars(self, info: PackInfo) -> dict[str, bytes]:
        """The transformer's config, by which diffusers finds the plug-in."""
        config = info.config | {"quantization_config": _settings(info)}
        return {"transformer/config.json": json_bytes(config)}


def _settings(info: PackInfo) -> dict[str, Any]:
    """What the plug-in must know: all linears are packed but those that are named."""
    return {
        "quant_method": METHOD,
        "bits": info.bits,
        "group_size": GROUP,
        "modules_to_not_convert": sorted(t.linear for t in info.kept if len(t.shape) > 1),
    }


def _has_codes(path: Path) -> bool:
    try:
        return any(n.endswith(".codes") for n in by_name(read_header(path).tensors))
    except BadInput:
        return False


def _size(codes: tuple[int, ...], scales: tuple[int, ...]) -> tuple[int, int, int]:
    """(out, in, bits) of a packed linear; 0 bits where no width fits."""
    n = scales[1] * GROUP
    return codes[0], n, next((b for b in BITS.values() if codes[1] * 8 == n * b), 0)
