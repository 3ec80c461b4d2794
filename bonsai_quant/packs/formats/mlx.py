"""MLX's affine layout, as the Bonsai Image clients for Apple silicon and the browser read it.

Per packed linear NAME: `NAME.weight` U32 [out, in * bits / 32], code j of a word at bit j * bits;
`NAME.scales` and `NAME.biases` BF16 [out, in / 128]; weight = code * scale + bias. Ternary: scale
s, bias -s, codes 0, 1, 2. Binary: scale 2 s, bias -s, codes 0, 1. Kept tensors: BF16.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bonsai_quant.core.schema import GROUP, Mode, PackedLayer, PackInfo, PackTensor, TensorSpec
from bonsai_quant.packs.manifest import Manifest
from bonsai_quant.quantization.bf16 import bf16_bits, from_bf16
from bonsai_quant.storage.containers.layout import Layout, safetensors_layout
from bonsai_quant.storage.containers.safetensors import read_header

from .format import Format, all_specs, json_bytes
from .inventory import Inventory, by_name, packed_inventory
from .kept import Kept, KeptWhole
from .legal import canonical_scales, check_codes, check_equal

FOLDER = "transformer-packed-mflux"


class MlxFormat(Format):
    """`transformer-packed-mflux/diffusion_pytorch_model.safetensors`."""

    name = "mlx"
    kept: Kept = KeptWhole("BF16")
    by_default = True
    has_kernel = True
    library = "mlx"
    tags = ("mlx", "apple-silicon")

    def weights_path(self, mode: Mode) -> str:
        """Path of the weight file inside the pack's folder."""
        return f"{FOLDER}/diffusion_pytorch_model.safetensors"

    def inventory(self, path: Path, manifest: Manifest | None) -> Inventory:
        """See `Format`."""
        stored = by_name(read_header(path).tensors)
        return packed_inventory(stored, path, manifest, mark=".scales", codes=".weight", size=_size)

    def parts(self, tensor: PackTensor, bits: int) -> list[TensorSpec]:
        """`.weight`, `.scales` and `.biases`."""
        out, n = tensor.shape
        return [
            TensorSpec(tensor.name, "U32", (out, n * bits // 32)),
            TensorSpec(f"{tensor.linear}.scales", "BF16", (out, n // GROUP)),
            TensorSpec(f"{tensor.linear}.biases", "BF16", (out, n // GROUP)),
        ]

    def encode(self, layer: PackedLayer) -> list[np.ndarray]:
        """The code bytes as they are; scale and bias are exact in bf16."""
        s = layer.scales.astype(np.float32)
        step = s if layer.bits == 2 else 2 * s
        return [layer.codes.view("<u4"), bf16_bits(step), bf16_bits(-s)]

    def decode(
        self, name: str, shape: tuple[int, int], bits: int, parts: Sequence[np.ndarray]
    ) -> PackedLayer:
        """Inverse of `encode`; refuses code 3, bias other than -s, and scales off the grid."""
        words, scales, biases = parts
        codes = np.ascontiguousarray(words).view(np.uint8)
        check_codes(codes, bits, f"{name}.weight")
        step, bias = from_bf16(scales), from_bf16(biases)
        s = step if bits == 2 else step / 2
        exact = canonical_scales(s, f"{name}.scales")
        check_equal(bias, -s, f"{name}.biases", "bias")
        return PackedLayer(name, shape, bits, codes, exact)

    def dense(
        self, layer: PackedLayer, parts: Sequence[np.ndarray], start: int, stop: int
    ) -> np.ndarray:
        """code * scale + bias, from the stored numbers."""
        from bonsai_quant.quantization.dequantize import affine

        scales, biases = (from_bf16(p[start:stop]) for p in parts[1:3])
        return affine(layer.codes[start:stop], layer.bits, scales, biases)

    def layout(self, info: PackInfo) -> Layout:
        """One file; the metadata is what MLX's own writer puts there."""
        return safetensors_layout(all_specs(self, info), {"format": "mlx"})

    def sidecars(self, info: PackInfo) -> dict[str, bytes]:
        """The configs that clients open; `solver` stands in ternary packs only, as published."""
        kept = sorted(t.linear for t in info.kept if len(t.shape) == 2)
        quantization = {
            "bits": info.bits,
            "format": "mlx-packed-affine",
            "group_size": GROUP,
            "skip_patterns": kept,
        }
        if info.mode == "ternary":
            quantization["solver"] = "ternary"
        checkpoint = {
            "dense": [t.name for t in info.kept],
            "files": ["diffusion_pytorch_model.safetensors"],
            "packed": [t.linear for t in info.packed],
        }
        return {
            f"{FOLDER}/config.json": json_bytes(info.config),
            f"{FOLDER}/quantization_config.json": json_bytes(quantization),
            f"{FOLDER}/checkpoint_manifest.json": json_bytes(checkpoint),
        }


def _size(codes: tuple[int, ...], scales: tuple[int, ...]) -> tuple[int, int, int]:
    n = scales[1] * GROUP
    return codes[0], n, codes[1] * 32 // max(n, 1)
