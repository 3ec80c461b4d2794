"""The records that the stages exchange. Frozen, small, and free of behaviour beyond arithmetic."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

GROUP = 128
"""Consecutive input channels of one output row that share a scale."""

SCHEMA_VERSION = 1
"""Of every JSON this program writes: manifests and `--json` answers."""

Mode = Literal["ternary", "binary"]
Action = Literal["ternary", "binary", "keep"]
MODES: tuple[Mode, ...] = ("ternary", "binary")

BITS: dict[str, int] = {"ternary": 2, "binary": 1}
"""Bits of one code as held in memory and in the mlx and gemlite formats."""

DTYPE_BYTES: dict[str, int] = {
    "BF16": 2,
    "F16": 2,
    "F32": 4,
    "U8": 1,
    "I32": 4,
    "U32": 4,
    "F64": 8,
    "I64": 8,
    "U64": 8,
    "I16": 2,
    "U16": 2,
    "I8": 1,
    "BOOL": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "F8_E4M3FNUZ": 1,
    "F8_E5M2FNUZ": 1,
    "C64": 8,
}
"""Bytes of the safetensors dtypes; only those of the first lines are computed with."""

NUMPY_DTYPE: dict[str, str] = {
    "BF16": "<u2",
    "F16": "<f2",
    "F32": "<f4",
    "U8": "u1",
    "I32": "<i4",
    "U32": "<u4",
    "F64": "<f8",
    "I64": "<i8",
}
"""numpy's dtype for the bytes of each; numpy has no bf16, so its 16 bits travel as uint16."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, safetensors dtype and shape of a tensor, wherever it is."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of its data."""
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor inside a file: `offset` is counted in bytes from the start of the file."""

    spec: TensorSpec
    path: Path
    offset: int

    @property
    def row_bytes(self) -> int:
        """Bytes from one index of the first axis to the next."""
        return self.spec.nbytes // max(self.spec.shape[0], 1) if self.spec.shape else 0


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows [start, stop) of a stored tensor, which become rows [at, at + stop - start) of ours."""

    stored: StoredTensor
    start: int
    stop: int
    at: int


@dataclass(frozen=True, slots=True)
class PackTensor:
    """One tensor of a model and how a pack holds it.

    name: diffusers name, with `.weight`.  shape: [out, in] or [n].
    """

    name: str
    shape: tuple[int, ...]
    action: Action

    @property
    def linear(self) -> str:
        """Name of the module that owns the tensor: the name without `.weight`."""
        return self.name.removesuffix(".weight")

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def packed(self) -> bool:
        """Held as codes and scales."""
        return self.action != "keep"


@dataclass(frozen=True, slots=True)
class PackInfo:
    """What is in a pack, in whatever format. config: diffusers' config.json of the transformer."""

    base: str
    mode: Mode
    config: dict[str, Any]
    tensors: tuple[PackTensor, ...]

    @property
    def bits(self) -> int:
        """Bits of one code in memory: the same for every layer of a pack."""
        return BITS[self.mode]

    @property
    def packed(self) -> tuple[PackTensor, ...]:
        """The tensors held as codes and scales."""
        return tuple(t for t in self.tensors if t.packed)

    @property
    def kept(self) -> tuple[PackTensor, ...]:
        """The tensors held in 16 bits."""
        return tuple(t for t in self.tensors if not t.packed)


@dataclass(frozen=True, slots=True)
class Delta:
    """What a LoRA adds to a tensor of ours, [out, in]: factor * up @ down.

    lora: its file.  down: [r, in].  up: [.., r], of which some rows become ours.
    factor: the scale that was asked for, times alpha / r.
    """

    lora: Path
    down: StoredTensor
    up: tuple[Piece, ...]
    factor: float

    @property
    def rank(self) -> int:
        """Inner width of the product."""
        return self.down.spec.shape[0]


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """A tensor of the planned pack, the rule that decides how it is held, and its source rows.

    deltas: what LoRAs add to it before it is solved or rounded.
    """

    tensor: PackTensor
    rule: str
    pieces: tuple[Piece, ...]
    deltas: tuple[Delta, ...] = ()

    @property
    def source_bytes(self) -> int:
        """Bytes read from the source for it."""
        return sum((p.stop - p.start) * p.stored.row_bytes for p in self.pieces)


@dataclass(frozen=True, slots=True)
class PackedLayer:
    """One packed linear in memory: the canonical form that every format is made from.

    name: module name.  shape: [out, in].  bits: 1 or 2 per code.
    codes: [out, in * bits / 8] uint8, least significant bits first along `in`.
    scales: [out, in / 128] float16, s >= 2^-14, on the grid that bf16 can hold too.
    At 2 bits the weight is s * (code - 1), at 1 bit s * (2 * code - 1).
    """

    name: str
    shape: tuple[int, int]
    bits: int
    codes: np.ndarray
    scales: np.ndarray


@dataclass(frozen=True, slots=True)
class LayerStats:
    """What rounding did to one tensor; the columns of layers.csv (missing ones are None).

    stored_bytes: in the bonsai format.  energy: sum of squared weights.
    """

    name: str
    shape: tuple[int, ...]
    action: Action
    source_bytes: int
    stored_bytes: int
    energy: float = 0.0
    relative_error: float | None = None
    sqnr_db: float | None = None
    cosine: float | None = None
    zero_share: float | None = None
    scale_min: float | None = None
    scale_max: float | None = None
    groups_below_grid: int = 0
    inexact: int = 0


@dataclass(frozen=True, slots=True)
class PictureSettings:
    """How a picture is made; named as diffusers names them. height, width: in pixels."""

    height: int
    width: int
    num_inference_steps: int
    guidance_scale: float
    max_sequence_length: int


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file as a manifest lists it. `remote_path` repeats `path`: existing clients read it."""

    path: str
    size: int
    sha256: str


def to_json(record: Any) -> dict[str, Any]:
    """A record as plain JSON values."""
    return {k: _plain(v) for k, v in asdict(record).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return value


@dataclass(frozen=True, slots=True)
class Span:
    """Rows [start, stop) of a stored tensor, which are rows from `at` of a planned one."""

    planned: PlannedTensor
    stored: StoredTensor
    start: int
    stop: int
    at: int
