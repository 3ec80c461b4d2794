"""Codes and scales in one file under the original names, for our node in ComfyUI.

Per packed tensor X of the original layout, whose weight is [out, in]:

    X.weight        U8 [out, in * bits / 8], codes of 2 bits (0, 1, 2) or 1, lowest bits first
    X.weight_scale  BF16 [out, in / 128] = s; weight = s * (code - 1), or s * (2 * code - 1)

Kept tensors: BF16. `integrations/comfyui` has the reader.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bonsai_quant.core.errors import BadInput
from bonsai_quant.core.schema import (
    BITS,
    GROUP,
    Mode,
    PackedLayer,
    PackInfo,
    PackTensor,
    StoredTensor,
    TensorSpec,
)
from bonsai_quant.packs.manifest import Manifest
from bonsai_quant.quantization.bf16 import bf16_bits, from_bf16
from bonsai_quant.storage.containers.layout import Layout, pieced_safetensors_layout
from bonsai_quant.storage.containers.safetensors import read_header

from .format import Format, all_specs, json_bytes
from .inventory import Inventory, action_of, by_name, mode_of_bits
from .kept import Kept
from .legal import canonical_scales, check_codes
from .original import (
    KeptOriginal,
    detect_original,
    join,
    piece_name,
    pieces,
    require_one_action,
    rows_of,
    split,
    wholes,
)

FORMAT_VERSION = 1
SCALE = "_scale"
"""What the name of the scales has after that of the weight."""


class ComfyuiPackedFormat(Format):
    """`diffusion-model-ternary-packed.safetensors`, or `-binary-packed`."""

    name = "comfyui-packed"
    kept: Kept = KeptOriginal()
    tags = ("comfyui",)

    def weights_path(self, mode: Mode) -> str:
        """Path of the weight file inside the pack's folder."""
        return f"diffusion-model-{mode}-packed.safetensors"

    def inventory(self, path: Path, manifest: Manifest | None) -> Inventory:
        """See `Format`."""
        return _inventory(by_name(read_header(path).tensors), path, manifest)

    def parts(self, tensor: PackTensor, bits: int) -> list[TensorSpec]:
        """The rows of the codes, then those of the scales."""
        out, n = tensor.shape
        return [
            *pieces(tensor.name, "U8", (out, n * bits // 8)),
            *pieces(tensor.name, "BF16", (out, n // GROUP), SCALE),
        ]

    def encode(self, layer: PackedLayer) -> list[np.ndarray]:
        """Codes as they are; scales are exact in bf16."""
        name = f"{layer.name}.weight"
        scales = bf16_bits(layer.scales.astype(np.float32))
        return [*split(name, layer.codes), *split(name, scales)]

    def decode(
        self, name: str, shape: tuple[int, int], bits: int, parts: Sequence[np.ndarray]
    ) -> PackedLayer:
        """Inverse of `encode`; refuses code 3 and scales off the grid."""
        half, weight = len(parts) // 2, f"{name}.weight"
        codes, scales = join(weight, parts[:half]), join(weight, parts[half:])
        check_codes(codes, bits, weight)
        exact = canonical_scales(from_bf16(scales), weight + SCALE)
        return PackedLayer(name, shape, bits, codes, exact)

    def layout(self, info: PackInfo) -> Layout:
        """One file; Unsupported where q, k and v are not all packed or all kept."""
        specs = {s.name: s for s in all_specs(self, info)}
        stored = []
        for whole in wholes(info.tensors):
            require_one_action(whole, self.name)
            suffixes = ("", SCALE) if whole.held[0].packed else ("",)
            stored += [whole.stored(specs, suffix) for suffix in suffixes]
        about = {
            "base": info.base,
            "format": self.name,
            "format_version": FORMAT_VERSION,
            "group_size": GROUP,
            "mode": info.mode,
        }
        text = json.dumps(about, sort_keys=True, separators=(",", ":"))
        return pieced_safetensors_layout(stored, {"bonsai_quant": text})

    def sidecars(self, info: PackInfo) -> dict[str, bytes]:
        """The transformer's config, as diffusers reads it."""
        return {"config.json": json_bytes(info.config)}


def _inventory(
    present: Mapping[str, StoredTensor], path: Path, manifest: Manifest | None
) -> Inventory:
    """A weight with scales is packed; the stored pieces have the names that `pieces` gives them."""
    scaled = [n.removesuffix(SCALE) for n in present if n.endswith(SCALE)]
    if not scaled:
        raise BadInput("holds no packed layer", where=str(path), hint="convert again")
    sizes = {n: _size(n, present, path) for n in scaled}
    mode = mode_of_bits({bits for _, _, bits in sizes.values()}, path)
    kept = {n: t for n, t in present.items() if n not in sizes and not n.endswith(SCALE)}
    codes = {n: _dense(n, (out, width), path) for n, (out, width, _) in sizes.items()}
    model = detect_original(kept | codes, path)
    tensors, stored = [], {}
    for t in model.tensors:
        packed = t.pieces[0].stored.spec.name in sizes
        action = action_of(t.name.removesuffix(".weight"), mode, manifest) if packed else "keep"
        tensors.append(PackTensor(t.name, t.shape, action))
        for piece in t.pieces:
            whole = piece.stored.spec
            for suffix in ("", SCALE) if packed else ("",):
                name = piece_name(whole.name + suffix, whole.shape[0], piece.start, piece.stop)
                held = present[whole.name + suffix]
                stored[name] = rows_of(held, name, piece.start, piece.stop)
    return Inventory(mode, stored, tuple(tensors))


def _size(name: str, present: Mapping[str, StoredTensor], path: Path) -> tuple[int, int, int]:
    """(out, in, bits) of a packed tensor; 0 bits where no width fits."""
    shapes = [present[n].spec.shape if n in present else () for n in (name, name + SCALE)]
    if [len(shape) for shape in shapes] != [2, 2] or shapes[0][0] != shapes[1][0]:
        raise BadInput(
            "lacks codes or scales of two axes, with as many rows",
            where=(path, f"tensor {name}"),
            hint="convert again",
        )
    (out, width), (_, groups) = shapes
    bits = next((b for b in BITS.values() if width * 8 == groups * GROUP * b), 0)
    return out, groups * GROUP, bits


def _dense(name: str, shape: tuple[int, int], path: Path) -> StoredTensor:
    """A weight as a checkpoint would hold it, for its family to recognise."""
    return StoredTensor(TensorSpec(name, "BF16", shape), path, 0)
