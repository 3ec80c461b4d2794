"""Gemlite's layout for CUDA, as the Bonsai Image clients load it with `GemLiteLinearTriton`.

A flat dict. Per packed linear NAME: `W_q` U8 [in * bits / 8, out], the code bytes transposed;
`scales` and `zeros` F32 [in / 128, out]; weight = code * scale + zero, with scale s and zero -s
(ternary) or scale 2 s and zero -s (binary); `metadata` I32 [12]; `orig_shape` I32 [2]. Kept
tensors: BF16. Any other key makes the clients refuse the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bonsai_quant.core.schema import GROUP, Mode, PackedLayer, PackInfo, PackTensor, TensorSpec
from bonsai_quant.packs.manifest import Manifest
from bonsai_quant.storage.containers.layout import Layout, torchzip_layout

from .format import Format, all_specs, json_bytes
from .inventory import Inventory, by_name, packed_inventory
from .kept import Kept, KeptWhole
from .legal import canonical_scales, check_codes, check_equal, refuse

FP32, FP16, FMA_MODE = 0, 1, 4
PACKING_BITS = 8


def kernel_metadata(bits: int) -> np.ndarray:
    """gemlite's argument vector: [12] int32.

    scaled_activations, W_nbits, group_size, unpack_mask, elements_per_sample, input_dtype,
    output_dtype, acc_dtype, meta_dtype, channel_scale_mode, W_group_mode, data_contiguous.
    The accumulator is fp32, which every GPU has.
    """
    return np.array(
        [
            0,
            bits,
            GROUP,
            (1 << bits) - 1,
            PACKING_BITS // bits,
            FP16,
            FP16,
            FP32,
            FP32,
            0,
            FMA_MODE,
            1,
        ],
        np.int32,
    )


class GemliteFormat(Format):
    """`transformer-gemlite-int2/state_dict.pt` or `-int1/`."""

    name = "gemlite"
    kept: Kept = KeptWhole("BF16")
    by_default = True
    has_kernel = True
    tags = ("gemlite", "cuda")
    foreign_dtypes = {".scales": ("F16",), ".zeros": ("F16",)}

    def _folder(self, mode: Mode) -> str:
        return "transformer-gemlite-int2" if mode == "ternary" else "transformer-gemlite-int1"

    def weights_path(self, mode: Mode) -> str:
        """Path of the weight file inside the pack's folder."""
        return f"{self._folder(mode)}/state_dict.pt"

    def inventory(self, path: Path, manifest: Manifest | None) -> Inventory:
        """See `Format`."""
        from bonsai_quant.storage.containers.torchzip_reader import read_index

        stored = by_name(read_index(path))
        return packed_inventory(stored, path, manifest, mark=".W_q", codes=".W_q", size=_size)

    def parts(self, tensor: PackTensor, bits: int) -> list[TensorSpec]:
        """`W_q`, `scales`, `zeros`, `metadata`, `orig_shape`."""
        out, n = tensor.shape
        return [
            TensorSpec(f"{tensor.linear}.W_q", "U8", (n * bits // 8, out)),
            TensorSpec(f"{tensor.linear}.scales", "F32", (n // GROUP, out)),
            TensorSpec(f"{tensor.linear}.zeros", "F32", (n // GROUP, out)),
            TensorSpec(f"{tensor.linear}.metadata", "I32", (12,)),
            TensorSpec(f"{tensor.linear}.orig_shape", "I32", (2,)),
        ]

    def encode(self, layer: PackedLayer) -> list[np.ndarray]:
        """The code bytes transposed; scale and zero are exact in fp32 and in fp16."""
        s = np.ascontiguousarray(layer.scales.T).astype(np.float32)
        return [
            np.ascontiguousarray(layer.codes.T),
            s if layer.bits == 2 else 2 * s,
            -s,
            kernel_metadata(layer.bits),
            np.array(layer.shape, np.int32),
        ]

    def decode(
        self, name: str, shape: tuple[int, int], bits: int, parts: Sequence[np.ndarray]
    ) -> PackedLayer:
        """Inverse of `encode`; also refuses metadata that describes another layout."""
        w_q, scales, zeros, metadata, orig_shape = parts
        _check_metadata(metadata, orig_shape, shape, bits, name)
        codes = np.ascontiguousarray(w_q.T)
        check_codes(codes, bits, f"{name}.W_q")
        step, zero = (np.ascontiguousarray(a.T).astype(np.float32) for a in (scales, zeros))
        s = step if bits == 2 else step / 2
        exact = canonical_scales(s, f"{name}.scales")
        check_equal(zero, -s, f"{name}.zeros", "zero")
        return PackedLayer(name, shape, bits, codes, exact)

    def dense(
        self, layer: PackedLayer, parts: Sequence[np.ndarray], start: int, stop: int
    ) -> np.ndarray:
        """code * scale + zero, from the stored numbers."""
        from bonsai_quant.quantization.dequantize import affine

        scales, zeros = (
            np.ascontiguousarray(a[:, start:stop].T).astype(np.float32) for a in parts[1:3]
        )
        return affine(layer.codes[start:stop], layer.bits, scales, zeros)

    def layout(self, info: PackInfo) -> Layout:
        """One zip, as `torch.save` makes it."""
        return torchzip_layout(all_specs(self, info))

    def sidecars(self, info: PackInfo) -> dict[str, bytes]:
        """The configs that the clients open, and an empty autotune cache, which they insist on."""
        folder = self._folder(info.mode)
        kept = sorted(t.linear for t in info.kept if len(t.shape) == 2)
        name = "gemlite-int2-ternary-g128" if info.mode == "ternary" else "gemlite-int1-g128"
        quantization = {
            "bits": info.bits,
            "format": name,
            "group_size": GROUP,
            "input_dtype": "fp16",
            "output_dtype": "fp16",
            "packing_bitwidth": PACKING_BITS,
            "quantized_count": len(info.packed),
            "skip_patterns": kept,
            "skipped_count": len(kept),
            "quantized_layers": [t.linear for t in info.packed],
        }
        if info.mode == "ternary":
            quantization["solver"] = "ternary"
        return {
            f"{folder}/config.json": json_bytes(info.config),
            f"{folder}/gemlite_autotune.json": b"{}\n",
            f"{folder}/quantization_config.json": json_bytes(quantization),
        }


def _check_metadata(
    metadata: np.ndarray, orig_shape: np.ndarray, shape: tuple[int, int], bits: int, name: str
) -> None:
    """Fields that say how the codes are laid out; dtypes are the client's own choice."""
    expected = kernel_metadata(bits)
    for field in (1, 2, 3, 4, 9, 10):
        if metadata[field] != expected[field]:
            refuse(
                f"{name}.metadata",
                f"field {field}",
                f"is {metadata[field]}, expected {expected[field]}",
            )
    if tuple(int(n) for n in orig_shape) != shape:
        refuse(f"{name}.orig_shape", "", f"is {orig_shape.tolist()}, expected {list(shape)}")


def _size(codes: tuple[int, ...], scales: tuple[int, ...]) -> tuple[int, int, int]:
    """Both lie transposed."""
    n = scales[0] * GROUP
    return codes[1], n, codes[0] * 8 // max(n, 1)
