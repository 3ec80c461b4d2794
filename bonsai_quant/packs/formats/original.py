"""The original layout for formats that have its names: which rows of its tensors are ours.

A tensor there may hold several of ours, one after another, or one of ours with its halves
exchanged. The family says so in `original_rows`. A format addresses the rows as pieces, which are
called `tensor`, or `tensor[start:stop]` where they are not the whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bonsai_quant.core.errors import BadInput, Unsupported
from bonsai_quant.core.schema import PackTensor, StoredTensor, TensorSpec
from bonsai_quant.quantization.bf16 import from_bf16
from bonsai_quant.sources.families import Model, Rows, detect, original_rows

from .kept import exact_bf16, to_float16


@dataclass(frozen=True, slots=True)
class Whole:
    """A tensor of the original layout. height: its rows.

    held: ours that it holds, in the order of their rows; one that lies there in two pieces is held
    twice.  spans: (start, stop) of each.
    """

    name: str
    height: int
    held: tuple[PackTensor, ...]
    spans: tuple[tuple[int, int], ...]

    def labels(self, suffix: str = "") -> list[str]:
        """What its pieces are called. suffix: of the stored name, as for `pieces`."""
        return [piece_name(self.name + suffix, self.height, *span) for span in self.spans]

    def stored(
        self, specs: Mapping[str, TensorSpec], suffix: str = ""
    ) -> tuple[TensorSpec, list[TensorSpec]]:
        """The tensor as it is stored, and its pieces. specs: of all pieces, by their names."""
        held = [specs[label] for label in self.labels(suffix)]
        first = held[0]
        shape = (self.height, *first.shape[1:])
        return TensorSpec(self.name + suffix, first.dtype, shape), held


def detect_original(stored: Mapping[str, StoredTensor], path: Path) -> Model:
    """The model in a file of the original layout; BadInput where the names are diffusers'."""
    model = detect(stored, str(path))
    if model.layout != "original":
        raise BadInput(
            "has diffusers names; those of the original layout were expected",
            where=str(path),
            hint="convert again",
        )
    return model


def wholes(tensors: Iterable[PackTensor]) -> list[Whole]:
    """The original tensors that hold these, each complete."""
    found: dict[str, list[tuple[Rows, PackTensor]]] = {}
    for t in tensors:
        for rows in original_rows(t.name, t.shape[0]):
            found.setdefault(rows.tensor, []).append((rows, t))
    made = []
    for name, held in found.items():
        held.sort(key=lambda pair: pair[0].start)
        spans = tuple((rows.start, rows.stop) for rows, _ in held)
        made.append(Whole(name, held[0][0].height, tuple(t for _, t in held), spans))
    return made


def require_one_action(whole: Whole, format_name: str) -> None:
    """Refuse a tensor of which some rows are packed and others kept."""
    first = whole.held[0]
    if odd := next((t for t in whole.held if t.packed != first.packed), None):
        raise Unsupported(
            f"is {odd.action} and {first.linear} is {first.action}, but {format_name} has both in "
            f"{whole.name}, which is of one type",
            where=(f"tensor {odd.name}",),
            hint="give both the same action in the recipe",
        )


def piece_name(tensor: str, height: int, start: int, stop: int) -> str:
    """What rows [start, stop) of a tensor of so many rows are called."""
    return tensor if stop - start == height else f"{tensor}[{start}:{stop}]"


def pieces(name: str, dtype: str, shape: tuple[int, ...], suffix: str = "") -> list[TensorSpec]:
    """What one of our tensors is of the original's, in the order of the rows there.

    name: diffusers name.  dtype, shape: as all its rows are stored.  suffix: of the stored name.
    """
    return [
        TensorSpec(
            piece_name(r.tensor + suffix, r.height, r.start, r.stop),
            dtype,
            (r.stop - r.start, *shape[1:]),
        )
        for r in original_rows(name, shape[0])
    ]


def split(name: str, values: np.ndarray) -> list[np.ndarray]:
    """The data of `pieces`. name: diffusers name.  values: [out, ...]."""
    return [values[r.at : r.at + r.stop - r.start] for r in original_rows(name, len(values))]


def join(name: str, parts: Sequence[np.ndarray]) -> np.ndarray:
    """Inverse of `split`."""
    if len(parts) == 1:
        return parts[0]
    rows = original_rows(name, sum(map(len, parts)))
    ordered = sorted(zip(rows, parts, strict=True), key=lambda pair: pair[0].at)
    return np.concatenate([part for _, part in ordered])


def stored_pieces(model: Model) -> dict[str, StoredTensor]:
    """The rows of a file's tensors that are the model's, by the names that `pieces` gives them."""
    found = {}
    for tensor in model.tensors:
        for p in tensor.pieces:
            whole = p.stored
            name = piece_name(whole.spec.name, whole.spec.shape[0], p.start, p.stop)
            found[name] = rows_of(whole, name, p.start, p.stop)
    return found


def rows_of(whole: StoredTensor, name: str, start: int, stop: int) -> StoredTensor:
    """Rows [start, stop) of a stored tensor, as a tensor of that name."""
    spec = TensorSpec(name, whole.spec.dtype, (stop - start, *whole.spec.shape[1:]))
    return StoredTensor(spec, whole.path, whole.offset + start * whole.row_bytes)


class KeptOriginal:
    """BF16 under original names."""

    def parts(self, tensor: PackTensor) -> list[TensorSpec]:
        """Its rows, in their order in the original tensor."""
        return pieces(tensor.name, "BF16", tensor.shape)

    def encode(self, tensor: PackTensor, values: np.ndarray) -> list[np.ndarray]:
        """Exact in bf16."""
        return split(tensor.name, exact_bf16(values))

    def decode(self, tensor: PackTensor, parts: Sequence[np.ndarray]) -> np.ndarray:
        """Inverse of `encode`; refuses what fp16 and bf16 do not both hold."""
        return to_float16(from_bf16(join(tensor.name, parts)), tensor.name)
