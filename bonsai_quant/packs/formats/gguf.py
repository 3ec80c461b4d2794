"""GGUF, as stable-diffusion.cpp reads a FLUX.2 diffusion model.

Tensors have the names of the original layout: q, k and v are one tensor, and the halves of the last
norm's modulation change places. Packed layers are blocks of weights along `in`:

    binary    Q1_0: 128 weights   d (fp16) | 16 bytes, bit j % 8 of byte j / 8; w = d or, at 0, -d
    ternary   Q2_0:  64 weights   d (fp16) | 16 bytes, 2 bits each, lowest first; w = (code - 1) d

Our groups have 128 weights, so that in Q2_0 each scale stands twice. Code 3, which is 2 d there, is
in no pack. Q2_0 has the number 42; forks of ggml wrote blocks of 128 under it, which are no pack of
ours and are refused (see `storage/containers/gguf_reader`).

Kept: BF16, but F32 where they have one axis: ggml's norms compute in float32, and the tools that
make such files keep their weights so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bonsai_quant.core.errors import BadInput, Unsupported
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
from bonsai_quant.quantization.bf16 import from_bf16
from bonsai_quant.storage.containers.gguf import ALIGN, OTHER_KINDS, OWN_KINDS, GgufTensor
from bonsai_quant.storage.containers.gguf_reader import read_gguf
from bonsai_quant.storage.containers.layout import Layout, gguf_layout

from .format import Format, json_bytes, stored_parts
from .inventory import Inventory, action_of
from .kept import Kept, exact_bf16, to_float16
from .legal import canonical_scales, check_codes, check_equal
from .original import detect_original, join, pieces, require_one_action, split, wholes

PACKED: dict[Mode, str] = {"binary": "Q1_0", "ternary": "Q2_0"}
SCALE = 2
"""Bytes of a block's scale; its codes follow."""
FILE_TYPE: dict[Mode, int] = {"binary": 40, "ternary": 41}
"""`general.file_type` of files that are mostly Q1_0 or Q2_0, as llama.cpp counts them."""
QUANTIZATION_VERSION = 2
"""Of the block layouts, as ggml counts them."""

KEPT = ("BF16", "F32")


class GgufKept:
    """BF16, or F32 with one axis, under original names."""

    def parts(self, tensor: PackTensor) -> list[TensorSpec]:
        """Its rows, in their order in the original tensor."""
        return _pieces(tensor, kept_kind(tensor.shape))

    def encode(self, tensor: PackTensor, values: np.ndarray) -> list[np.ndarray]:
        """Exact in bf16 and in float32."""
        one_axis = len(tensor.shape) == 1
        return split(tensor.name, values.astype(np.float32) if one_axis else exact_bf16(values))

    def decode(self, tensor: PackTensor, parts: Sequence[np.ndarray]) -> np.ndarray:
        """Inverse of `encode`; refuses what fp16 and bf16 do not both hold."""
        stored = join(tensor.name, parts)
        exact = stored if len(tensor.shape) == 1 else from_bf16(stored)
        return to_float16(exact, tensor.name)


class GgufFormat(Format):
    """`diffusion-model-q1_0.gguf` or `diffusion-model-q2_0.gguf`.

    packed: ggml's type of packed layers.  file_type: `general.file_type` of such files.
    """

    name = "gguf"
    kept: Kept = GgufKept()
    tags = ("gguf",)
    packed: Mapping[Mode, str] = PACKED
    file_type: Mapping[Mode, int] = FILE_TYPE

    def weights_path(self, mode: Mode) -> str:
        """Path of the weight file inside the pack's folder."""
        return f"diffusion-model-{self.packed[mode].lower()}.gguf"

    def inventory(self, path: Path, manifest: Manifest | None) -> Inventory:
        """See `Format`."""
        return _inventory(path, manifest, self.packed)

    def parts(self, tensor: PackTensor, bits: int) -> list[TensorSpec]:
        """Its rows of blocks."""
        return _pieces(tensor, self._kind(bits))

    def _kind(self, bits: int) -> str:
        return next(kind for mode, kind in self.packed.items() if BITS[mode] == bits)

    def encode(self, layer: PackedLayer) -> list[np.ndarray]:
        """Scale and code bytes of each block, one after the other."""
        kind, (out, n) = OWN_KINDS[self._kind(layer.bits)], layer.shape
        blocks = np.empty((out, n // kind.weights, kind.size), np.uint8)
        scales = np.repeat(layer.scales.astype("<f2", copy=False), GROUP // kind.weights, axis=1)
        blocks[..., :SCALE] = np.ascontiguousarray(scales).view(np.uint8).reshape(out, -1, SCALE)
        blocks[..., SCALE:] = layer.codes.reshape(out, -1, kind.size - SCALE)
        return split(f"{layer.name}.weight", blocks.reshape(out, -1))

    def decode(
        self, name: str, shape: tuple[int, int], bits: int, parts: Sequence[np.ndarray]
    ) -> PackedLayer:
        """Inverse of `encode`; refuses code 3, scales off the grid, and two scales in a group."""
        kind = OWN_KINDS[self._kind(bits)]
        blocks = join(f"{name}.weight", parts).reshape(shape[0], -1, kind.size)
        codes = np.ascontiguousarray(blocks[..., SCALE:]).reshape(shape[0], -1)
        check_codes(codes, bits, f"{name}.weight")
        scales = np.ascontiguousarray(blocks[..., :SCALE]).view("<f2")[..., 0].astype(np.float32)
        each = scales.reshape(shape[0], -1, GROUP // kind.weights)
        check_equal(each[..., -1], each[..., 0], f"{name}.weight", "the second block's scale")
        exact = canonical_scales(np.ascontiguousarray(each[..., 0]), f"{name}.weight")
        return PackedLayer(name, shape, bits, codes, exact)

    def layout(self, info: PackInfo) -> Layout:
        """One file; Unsupported where q, k and v are not all packed or all kept."""
        about: dict[str, str | int] = {
            "general.architecture": "flux",
            "general.name": info.base,
            "general.alignment": ALIGN,
            "general.quantization_version": QUANTIZATION_VERSION,
            "general.file_type": self.file_type[info.mode],
        }
        return gguf_layout(_gather(self, info), about)

    def sidecars(self, info: PackInfo) -> dict[str, bytes]:
        """The transformer's config, as diffusers reads it."""
        return {"config.json": json_bytes(info.config)}


def kept_kind(shape: tuple[int, ...]) -> str:
    """ggml's type of a kept tensor."""
    return "F32" if len(shape) == 1 else "BF16"


def _pieces(tensor: PackTensor, kind: str) -> list[TensorSpec]:
    """What one of our tensors is of the original's, as a type of ggml stores its rows."""
    stored = GgufTensor(tensor.name, kind, tensor.shape)
    return pieces(tensor.name, stored.dtype, stored.stored_shape)


def _gather(fmt: GgufFormat, info: PackInfo) -> list[tuple[GgufTensor, list[TensorSpec]]]:
    """The original tensors, each with its pieces in the order of their rows."""
    specs = {s.name: s for t in info.tensors for s in stored_parts(fmt, t, info.bits)}
    gathered = []
    for whole in wholes(info.tensors):
        require_one_action(whole, fmt.name)
        first = whole.held[0]
        kind = fmt.packed[info.mode] if first.packed else kept_kind(first.shape)
        tensor = GgufTensor(whole.name, kind, (whole.height, *first.shape[1:]))
        gathered.append((tensor, [specs[label] for label in whole.labels()]))
    return gathered


def _inventory(
    path: Path, manifest: Manifest | None, packed_kinds: Mapping[Mode, str]
) -> Inventory:
    """The stored pieces have the names that `_pieces` gives them."""
    present = {t.name: t for t in read_gguf(path).tensors}
    mode = _mode({t.kind for t in present.values()}, path, packed_kinds)
    packed_kind = packed_kinds[mode]
    readable = (packed_kind, *KEPT)
    if odd := next((t for t in present.values() if t.kind not in readable), None):
        raise Unsupported(
            f"is {odd.kind}; a {mode} pack holds {', '.join(readable)}",
            where=(path, f"tensor {odd.name}"),
            hint="see `bonsai-quant inspect` for what is in it",
        )
    dense = {n: StoredTensor(TensorSpec(n, "BF16", t.shape), path, 0) for n, t in present.items()}
    model = detect_original(dense, path)
    stored: dict[str, StoredTensor] = {}
    tensors = []
    for t in model.tensors:
        whole = present[t.pieces[0].stored.spec.name]
        packed = whole.kind == packed_kind and len(t.shape) == 2
        kind = packed_kind if packed else kept_kind(t.shape)
        if kind != whole.kind:
            raise BadInput(f"is {whole.kind}, expected {kind}",
                           where=(path, f"tensor {whole.name}"), hint="convert again")  # fmt: skip
        row_bytes = whole.nbytes // whole.shape[0]
        action = action_of(t.name.removesuffix(".weight"), mode, manifest) if packed else "keep"
        tensors.append(PackTensor(t.name, t.shape, action))
        for piece, spec in zip(t.pieces, _pieces(tensors[-1], kind), strict=True):
            stored[spec.name] = StoredTensor(spec, path, whole.offset + piece.start * row_bytes)
    if not any(t.packed for t in tensors):
        raise BadInput("holds no packed layer", where=str(path), hint="convert again")
    return Inventory(mode, stored, tuple(tensors))


def _mode(kinds: set[str], path: Path, packed: Mapping[Mode, str]) -> Mode:
    """Of the pack, by its packed tensors; the first that the format has where there is none."""
    if other := kinds & OTHER_KINDS.keys():
        raise Unsupported(
            f"holds ggml's type 42 in blocks of {OTHER_KINDS[min(other)].weights} weights, as a "
            "fork of ggml wrote it",
            where=str(path),
            hint="ggml's own Q2_0 has blocks of 64: make the file anew with newer tools",
        )
    found = [mode for mode, kind in packed.items() if kind in kinds]
    return found[-1] if found else next(iter(packed))
