"""Where every byte of a weight file goes, known before the first is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..schema import TensorSpec
from . import torchzip
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
    ordered = tuple(sorted(specs, key=lambda s: s.name))
    header, starts = build_header(ordered, metadata)
    offsets = {s.name: at for s, at in zip(ordered, starts, strict=True)}
    size = starts[-1] + ordered[-1].nbytes if ordered else len(header)
    return Layout(ordered, offsets, size, lambda _: [(0, header)])


def torchzip_layout(specs: Sequence[TensorSpec]) -> Layout:
    """One PyTorch zip, as `torch.save` of a flat dict makes it, its tensors sorted by name."""
    ordered = tuple(sorted(specs, key=lambda s: s.name))
    made = torchzip.layout(ordered)
    return Layout(
        ordered, made.offsets, made.size, lambda crcs: torchzip.frames(made, crcs), needs_crc=True
    )
