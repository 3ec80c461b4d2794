"""ONNX, as onnxruntime runs it on CPUs and GPUs, and onnxruntime-web in browsers.

`model.onnx` is the transformer's graph, which takes any number of pictures, sizes and captions;
`model.onnx.data` holds its weights. Per packed linear NAME, which com.microsoft.MatMulNBits
multiplies:

    NAME.codes    U8 [out, in / 128, 32], 2 bits each, lowest first; weight = (code - 1) * scale
    NAME.scales   F16 [out, in / 128], made float32 when the model is loaded

Binary codes are 0 and 2, since MatMulNBits knows no single bits. Kept tensors: F16, made float32
in the same way; onnxruntime-web 1.30 takes no BF16 on WebGPU. The graph follows from the tensors
and `config.json`, so that it is checked to the byte (see `onnx_graph`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bonsai_quant.core.schema import GROUP, Mode, PackedLayer, PackInfo, PackTensor, TensorSpec
from bonsai_quant.packs.manifest import Manifest
from bonsai_quant.storage.containers.layout import Layout, onnx_layout

from .format import Format, all_specs, json_bytes
from .inventory import Inventory
from .kept import Kept, KeptWhole
from .legal import canonical_scales, check_codes, refuse
from .onnx_graph.inventory import inventory_of
from .onnx_graph.model import check, render

MODEL, WEIGHTS = "model.onnx", "model.onnx.data"
BITS = 2
BLOCK = GROUP * BITS // 8
"""Bytes of a group's codes."""


class OnnxFormat(Format):
    """`model.onnx` and `model.onnx.data`."""

    name = "onnx"
    kept: Kept = KeptWhole("F16")
    has_kernel = True
    library = "onnx"
    tags = ("onnx", "onnxruntime")

    def weights_path(self, mode: Mode) -> str:
        """Path of the weight file inside the pack's folder."""
        return WEIGHTS

    def inventory(self, path: Path, manifest: Manifest | None) -> Inventory:
        """See `Format`. Reads the model beside the weights, and refuses any other graph."""
        return inventory_of(path.parent / MODEL, path, manifest, self._model)

    def parts(self, tensor: PackTensor, bits: int) -> list[TensorSpec]:
        """`.codes` and `.scales`."""
        out, n = tensor.shape
        return [
            TensorSpec(f"{tensor.linear}.codes", "U8", (out, n // GROUP, BLOCK)),
            TensorSpec(f"{tensor.linear}.scales", "F16", (out, n // GROUP)),
        ]

    def encode(self, layer: PackedLayer) -> list[np.ndarray]:
        """Codes of 2 bits; a binary 1 is 2."""
        codes = layer.codes if layer.bits == BITS else _widened(layer.codes)
        return [codes.reshape(layer.shape[0], -1, BLOCK), layer.scales]

    def decode(
        self, name: str, shape: tuple[int, int], bits: int, parts: Sequence[np.ndarray]
    ) -> PackedLayer:
        """Inverse of `encode`; refuses code 3, in binary 1, and scales off the grid."""
        codes = np.ascontiguousarray(parts[0]).reshape(shape[0], -1)
        check_codes(codes, BITS, f"{name}.codes")
        if bits != BITS:
            codes = _narrowed(codes, f"{name}.codes")
        scales = canonical_scales(parts[1].astype(np.float32), f"{name}.scales")
        return PackedLayer(name, shape, bits, codes, scales)

    def layout(self, info: PackInfo) -> Layout:
        """The weights alone; Unsupported where there is no graph of the transformer."""
        check(info)
        return onnx_layout(all_specs(self, info))

    def sidecars(self, info: PackInfo) -> dict[str, bytes]:
        """The model, and the transformer's config as diffusers reads it."""
        return {MODEL: self._model(info), "config.json": json_bytes(info.config)}

    def _model(self, info: PackInfo) -> bytes:
        layout = self.layout(info)
        return render(info, layout.specs, layout.offsets, WEIGHTS)


def _widened(codes: np.ndarray) -> np.ndarray:
    """[out, in / 8] uint8, codes 0 and 1 -> [out, in / 4], codes 0 and 2."""
    wide: np.ndarray = _WIDE[codes].view(np.uint8)
    return wide.reshape(len(codes), -1)


def _narrowed(codes: np.ndarray, name: str) -> np.ndarray:
    """Inverse of `_widened`; refuses code 1. name: of the tensor, for messages."""
    if (wrong := np.flatnonzero(codes & 0x55)).size:
        at, byte = int(wrong[0]), int(codes.reshape(-1)[wrong[0]]) & 0x55
        row, column = divmod(at * 4 + ((byte & -byte).bit_length() - 1) // 2, codes.shape[1] * 4)
        refuse(name, f"row {row}, column {column}", "code 1; a binary pack holds 0 and 2")
    halves: np.ndarray = _NARROW[codes]
    narrow: np.ndarray = halves[:, 0::2] | halves[:, 1::2] << 4
    return narrow


def _tables() -> tuple[np.ndarray, np.ndarray]:
    """Eight codes of a bit -> the same of two bits; four codes of two bits -> the same of a bit."""
    fields = np.arange(256)
    bits = fields[:, None] >> np.arange(8) & 1
    wide = (bits << (2 * np.arange(8) + 1)).sum(1).astype("<u2")
    high = fields[:, None] >> (2 * np.arange(4) + 1) & 1
    return wide, (high << np.arange(4)).sum(1).astype(np.uint8)


_WIDE, _NARROW = _tables()
