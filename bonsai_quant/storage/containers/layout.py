"""Where every byte of a weight file goes, known before the first is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bonsai_quant.core.schema import TensorSpec

from . import onnx, torchzip
from .gguf import GgufTensor, padded
from .gguf import build_header as build_gguf_header
from .safetensors import build_header


@dataclass(frozen=True, slots=True)
class Layout:
    """A weight file to be.

    offsets: tensor name -> byte in the file.  size: of the whole file.
    frames: from each tensor's CRC-32, the (offset, bytes) of all that is not tensor data.
    needs_crc: whether the container stores those checksums.
    """

    specs: tuple[TensorSpec, ...]
    offsets: Mapping[str, int]
    size: int
    frames: Callable[[Mapping[str, int]], list[tuple[int, bytes]]]
    needs_crc: bool = False

    @property
    def data_bytes(self) -> int:
        """Bytes of tensor data, without headers."""
        return sum(s.nbytes for s in self.specs)


def safetensors_layout(specs: Sequence[TensorSpec], metadata: dict[str, str]) -> Layout:
    """One safetensors file, its tensors sorted by name."""
    return pieced_safetensors_layout([(s, [s]) for s in specs], metadata)


def pieced_safetensors_layout(
    tensors: Sequence[tuple[TensorSpec, Sequence[TensorSpec]]], metadata: dict[str, str]
) -> Layout:
    """One safetensors file, its tensors sorted by name.

    tensors: each with the pieces that it is written in, which follow one another without a gap.
    """
    ordered = sorted(tensors, key=lambda t: t[0].name)
    header, starts = build_header([t for t, _ in ordered], metadata)
    specs: list[TensorSpec] = []
    offsets: dict[str, int] = {}
    end = len(header)
    for (tensor, pieces), start in zip(ordered, starts, strict=True):
        end = _place(tensor.name, tensor.nbytes, pieces, start, offsets)
        specs += pieces
    return Layout(tuple(specs), offsets, end, lambda _: [(0, header)])


def torchzip_layout(specs: Sequence[TensorSpec]) -> Layout:
    """One PyTorch zip, as `torch.save` of a flat dict makes it, its tensors sorted by name."""
    ordered = tuple(sorted(specs, key=lambda s: s.name))
    archive = torchzip.layout(ordered)
    return Layout(
        ordered,
        archive.offsets,
        archive.size,
        lambda crcs: torchzip.frames(archive, crcs),
        needs_crc=True,
    )


def gguf_layout(
    tensors: Sequence[tuple[GgufTensor, Sequence[TensorSpec]]], metadata: Mapping[str, str | int]
) -> Layout:
    """One GGUF file, its tensors sorted by name.

    tensors: each with the pieces that it is written in, which follow one another without a gap.
    """
    ordered = sorted(tensors, key=lambda t: t[0].name)
    header, starts = build_gguf_header([t for t, _ in ordered], metadata)
    specs: list[TensorSpec] = []
    offsets: dict[str, int] = {}
    frames, end = [(0, header)], len(header)
    for (tensor, pieces), start in zip(ordered, starts, strict=True):
        at = _place(tensor.name, tensor.nbytes, pieces, start, offsets)
        specs += pieces
        end = padded(at)
        if end > at:
            frames.append((at, bytes(end - at)))
    return Layout(tuple(specs), offsets, end, lambda _: frames)


def _place(
    name: str, size: int, pieces: Sequence[TensorSpec], start: int, offsets: dict[str, int]
) -> int:
    """Note where each piece of a tensor goes; -> the end of the tensor."""
    at = start
    for piece in pieces:
        offsets[piece.name] = at
        at += piece.nbytes
    if at != start + size:
        raise AssertionError(f"{name}: pieces of {at - start} bytes for {size}")
    return at


def onnx_layout(specs: Sequence[TensorSpec]) -> Layout:
    """The weights beside an ONNX model, sorted by name, each at a multiple of its alignment."""
    ordered = tuple(sorted(specs, key=lambda s: s.name))
    offsets: dict[str, int] = {}
    gaps, end = [], 0
    for spec in ordered:
        start = onnx.padded(end)
        if start > end:
            gaps.append((end, bytes(start - end)))
        offsets[spec.name], end = start, start + spec.nbytes
    return Layout(ordered, offsets, end, lambda _: gaps)
