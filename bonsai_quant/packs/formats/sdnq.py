"""SDNQ's layout: stock diffusers and SD.Next load it with the `sdnq` package, codes stay packed.

Per packed linear NAME, in the file that diffusers opens:

    ternary   `int2`:  NAME.weight U8 [out * in / 4], codes -1, 0, +1 as 1, 2, 3, lowest bits first;
              NAME.scale BF16 [out, in / 128, 1] = s; weight = (code - 2) * scale
    binary    `uint1`: NAME.weight U8 [out * in / 8], codes 0, 1, lowest bits first;
              NAME.scale = 2 s and NAME.zero_point = -s; weight = zero_point + code * scale

With one group in a row, scale and zero point are [out, 1]. Kept tensors: BF16.
See https://pypi.org/project/sdnq/ (0.2.8).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bonsai_quant.core.errors import BadInput
from bonsai_quant.core.schema import (
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
from bonsai_quant.storage.containers.layout import Layout, safetensors_layout
from bonsai_quant.storage.containers.safetensors import read_header

from .format import Format, all_specs, json_bytes
from .inventory import Inventory, action_of, by_name
from .kept import Kept, KeptWhole
from .legal import canonical_scales, check_equal, refuse

SDNQ = "0.2.8"
"""The release of sdnq that the layout is of."""
DTYPE: dict[Mode, str] = {"ternary": "int2", "binary": "uint1"}
SHIFT = 0x55
"""One added to each of the four codes of a byte: sdnq's int2 begins at -2."""


class SdnqFormat(Format):
    """`transformer/diffusion_pytorch_model.safetensors`, and in its config how it is stored."""

    name = "sdnq"
    kept: Kept = KeptWhole("BF16")
    library = "diffusers"
    tags = ("sdnq",)

    def weights_path(self, mode: Mode) -> str:
        """Path of the weight file inside the pack's folder."""
        return "transformer/diffusion_pytorch_model.safetensors"

    def is_at(self, path: Path, listed: str | None) -> bool:
        """Whether our manifest says so, or layers in the file have scales."""
        return listed == self.name or (not listed and _has_scales(path))

    def inventory(self, path: Path, manifest: Manifest | None) -> Inventory:
        """See `Format`."""
        return _inventory(by_name(read_header(path).tensors), path, manifest)

    def parts(self, tensor: PackTensor, bits: int) -> list[TensorSpec]:
        """`.weight` and `.scale`; in binary `.zero_point` as well."""
        out, n = tensor.shape
        scales = (out, n // GROUP, 1) if n > GROUP else (out, 1)
        named = ("scale",) if bits == 2 else ("scale", "zero_point")
        return [
            TensorSpec(tensor.name, "U8", (out * n * bits // 8,)),
            *(TensorSpec(f"{tensor.linear}.{name}", "BF16", scales) for name in named),
        ]

    def encode(self, layer: PackedLayer) -> list[np.ndarray]:
        """Codes moved by one in ternary; scale and zero point are exact in bf16."""
        codes = np.ascontiguousarray(layer.codes).reshape(-1)
        s = layer.scales.astype(np.float32)
        s = s[..., None] if s.shape[1] > 1 else s
        if layer.bits == 2:
            return [codes + np.uint8(SHIFT), bf16_bits(s)]
        return [codes, bf16_bits(2 * s), bf16_bits(-s)]

    def decode(
        self, name: str, shape: tuple[int, int], bits: int, parts: Sequence[np.ndarray]
    ) -> PackedLayer:
        """Inverse of `encode`; refuses code 0, zero points other than -s, scales off the grid."""
        codes = parts[0].reshape(shape[0], -1)
        step = from_bf16(parts[1]).reshape(shape[0], -1)
        s = step if bits == 2 else step / 2
        exact = canonical_scales(s, f"{name}.scale")
        if bits == 2:
            return PackedLayer(name, shape, bits, _moved_back(codes, name), exact)
        check_equal(
            from_bf16(parts[2]).reshape(shape[0], -1), -s, f"{name}.zero_point", "zero point"
        )
        return PackedLayer(name, shape, bits, codes, exact)

    def dense(
        self, layer: PackedLayer, parts: Sequence[np.ndarray], start: int, stop: int
    ) -> np.ndarray:
        """(code - 2) * scale, or zero_point + code * scale, from the stored numbers."""
        from bonsai_quant.quantization.dequantize import affine

        step, *zero = (from_bf16(p[start:stop]).reshape(stop - start, -1) for p in parts[1:])
        return affine(layer.codes[start:stop], layer.bits, step, zero[0] if zero else -step)

    def layout(self, info: PackInfo) -> Layout:
        """One file, as diffusers' own writer names it."""
        return safetensors_layout(all_specs(self, info), {"format": "pt"})

    def sidecars(self, info: PackInfo) -> dict[str, bytes]:
        """The transformer's config, by which diffusers knows how its weights are stored."""
        config = info.config | {"quantization_config": _settings(info)}
        return {"transformer/config.json": json_bytes(config)}


def _settings(info: PackInfo) -> dict[str, Any]:
    """What sdnq must know. Matrices that stay are named as parameters: without `.weight` the names
    match nothing, and loading fails."""
    return {
        "quant_method": "sdnq",
        "sdnq_version": SDNQ,
        "weights_dtype": DTYPE[info.mode],
        "group_size": GROUP,
        "modules_to_not_convert": sorted(t.name for t in info.kept if len(t.shape) > 1),
        "add_skip_keys": False,
        "dequantize_fp32": True,
        "use_quantized_matmul": False,  # which would round inputs to 8 bits
    }


def _moved_back(codes: np.ndarray, name: str) -> np.ndarray:
    """sdnq's 1, 2, 3 -> our 0, 1, 2. Raises VerificationFailed at the first 0, which is -2."""
    zero = ~(codes | codes >> np.uint8(1)) & np.uint8(SHIFT)
    if zero.any():
        row, byte = (int(i) for i in np.argwhere(zero)[0])
        lane = next(i for i in range(4) if zero[row, byte] >> 2 * i & 1)
        refuse(f"{name}.weight", f"row {row}, column {4 * byte + lane}",
               "code 0, which is -2; a ternary pack holds 1, 2 and 3")  # fmt: skip
    return codes - np.uint8(SHIFT)


def _has_scales(path: Path) -> bool:
    try:
        return any(n.endswith(".scale") for n in by_name(read_header(path).tensors))
    except BadInput:
        return False


def _inventory(
    stored: Mapping[str, StoredTensor], path: Path, manifest: Manifest | None
) -> Inventory:
    shapes = {n: t.spec.shape for n, t in stored.items()}
    linears = [n.removesuffix(".scale") for n in shapes if n.endswith(".scale")]
    if not linears:
        raise BadInput("holds no packed layer", where=str(path), hint="convert again")
    mode: Mode = "binary" if f"{linears[0]}.zero_point" in shapes else "ternary"
    tensors = [
        PackTensor(f"{n}.weight", _size(shapes[f"{n}.scale"]), action_of(n, mode, manifest))
        for n in linears
    ]
    packed = {t.name for t in tensors}
    tensors += [
        PackTensor(n, s, "keep")
        for n, s in shapes.items()
        if n.endswith(".weight") and n not in packed
    ]
    return Inventory(mode, stored, tuple(sorted(tensors, key=lambda t: t.name)))


def _size(scales: tuple[int, ...]) -> tuple[int, int]:
    """Shape of the scales -> (out, in) of the weight. Checked by the specs of the whole file."""
    groups = scales[1] if len(scales) == 3 else 1
    return (scales[0] if scales else 0, groups * GROUP)
