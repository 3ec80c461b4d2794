"""Dense bf16 weights in one file under the original names, which ComfyUI loads as it is.

The numbers are those of `unpacked`, and as there a group of zeros has no scale of its own. q, k and
v are one tensor, and the halves of the last norm's modulation change places.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bonsai_quant.core.schema import Mode, PackedLayer, PackInfo, PackTensor, TensorSpec
from bonsai_quant.packs.manifest import Manifest
from bonsai_quant.storage.containers.layout import Layout, pieced_safetensors_layout
from bonsai_quant.storage.containers.safetensors import read_header

from .format import Format, all_specs, json_bytes
from .inventory import Inventory, by_name, dense_tensors
from .kept import Kept
from .original import KeptOriginal, detect_original, join, pieces, split, stored_pieces, wholes
from .unpacked import UnpackedFormat

DENSE = UnpackedFormat()
"""How the weights of one layer are stored, before they are given their places."""


class ComfyuiFormat(Format):
    """`diffusion-model-ternary-bf16.safetensors`, or `-binary-bf16`."""

    name = "comfyui"
    kept: Kept = KeptOriginal()
    library = "diffusion-single-file"
    tags = ("comfyui",)

    def weights_path(self, mode: Mode) -> str:
        """Path of the weight file inside the pack's folder."""
        return f"diffusion-model-{mode}-bf16.safetensors"

    def inventory(self, path: Path, manifest: Manifest | None) -> Inventory:
        """See `Format`."""
        model = detect_original(by_name(read_header(path).tensors), path)
        mode, tensors = dense_tensors(model, path, manifest)
        return Inventory(mode, stored_pieces(model), tensors)

    def parts(self, tensor: PackTensor, bits: int) -> list[TensorSpec]:
        """Its rows, in their order in the original tensor."""
        return pieces(tensor.name, "BF16", tensor.shape)

    def encode(self, layer: PackedLayer) -> list[np.ndarray]:
        """s * t in bf16."""
        return split(f"{layer.name}.weight", DENSE.encode(layer)[0])

    def decode(
        self, name: str, shape: tuple[int, int], bits: int, parts: Sequence[np.ndarray]
    ) -> PackedLayer:
        """Inverse of `encode`; refuses a group that is not one scale times -1, 0 or +1."""
        return DENSE.decode(name, shape, bits, [join(f"{name}.weight", parts)])

    def dense(
        self, layer: PackedLayer, parts: Sequence[np.ndarray], start: int, stop: int
    ) -> np.ndarray:
        """The stored numbers."""
        return DENSE.dense(layer, [join(f"{layer.name}.weight", parts)], start, stop)

    def layout(self, info: PackInfo) -> Layout:
        """One file."""
        specs = {s.name: s for s in all_specs(self, info)}
        stored = [whole.stored(specs) for whole in wholes(info.tensors)]
        return pieced_safetensors_layout(stored, {"format": "pt"})

    def sidecars(self, info: PackInfo) -> dict[str, bytes]:
        """The transformer's config, as diffusers reads it."""
        return {"config.json": json_bytes(info.config)}
