"""What a format is: names and shapes of the stored tensors, and two inverse functions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import numpy as np

from ..errors import VerificationFailed
from ..schema import Mode, PackedLayer, PackInfo, PackTensor, TensorSpec
from ..storage.layout import Layout

if TYPE_CHECKING:
    from .kept import Kept


class Format(Protocol):
    """One way to store a pack. Stateless."""

    name: str
    kept: Kept

    def weights_path(self, mode: Mode) -> str:
        """Path of the weight file inside the pack's folder."""

    def parts(self, tensor: PackTensor, bits: int) -> list[TensorSpec]:
        """The stored tensors that hold one packed layer."""

    def encode(self, layer: PackedLayer) -> list[np.ndarray]:
        """The data of `parts`, in that order, in the numpy dtypes of `schema.NUMPY_DTYPE`."""

    def decode(
        self, name: str, shape: tuple[int, int], bits: int, parts: Sequence[np.ndarray]
    ) -> PackedLayer:
        """Inverse of `encode`. Raises VerificationFailed at the first value that is not legal."""

    def dense(
        self, layer: PackedLayer, parts: Sequence[np.ndarray], start: int, stop: int
    ) -> np.ndarray:
        """Rows [start, stop) of the float32 weights that this format's clients compute."""

    def layout(self, info: PackInfo) -> Layout:
        """The weight file, to the byte. Raises Unsupported for a pack that it cannot hold."""

    def sidecars(self, info: PackInfo) -> dict[str, bytes]:
        """The small files beside the weights: path inside the pack -> content."""


def stored_parts(fmt: Format, tensor: PackTensor, bits: int) -> list[TensorSpec]:
    """The stored tensors that hold one of the pack's."""
    return fmt.parts(tensor, bits) if tensor.packed else fmt.kept.parts(tensor)


def all_specs(fmt: Format, info: PackInfo) -> list[TensorSpec]:
    """Every stored tensor of a pack in this format."""
    return [part for t in info.tensors for part in stored_parts(fmt, t, info.bits)]


def bf16_bits(values: np.ndarray) -> np.ndarray:
    """float16 or float32 values that bf16 holds exactly -> their 16 bits."""
    return (values.astype(np.float32).view(np.uint32) >> np.uint32(16)).astype(np.uint16)


def from_bf16(bits: np.ndarray) -> np.ndarray:
    """bf16's 16 bits -> float32."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def canonical_scales(scales: np.ndarray, name: str) -> np.ndarray:
    """float32 scales s [out, in / 128] -> float16, refused unless every format can hold them."""
    from ..solvers.grid import on_grid

    legal = on_grid(np.ascontiguousarray(scales))
    if not legal.all():
        row, group = (int(i) for i in np.argwhere(~legal)[0])
        refuse(
            name,
            f"row {row}, group {group}",
            f"scale {scales[row, group]:g} is not a positive number that fp16 and bf16 both hold",
        )
    return scales.astype(np.float16)


def check_equal(found: np.ndarray, expected: np.ndarray, name: str, what: str) -> None:
    """found, expected: [out, in / 128]; refuse the first difference, by row and group."""
    wrong = found != expected
    if wrong.any():
        row, group = (int(i) for i in np.argwhere(wrong)[0])
        refuse(
            name,
            f"row {row}, group {group}",
            f"{what} is {found[row, group]:g}, expected {expected[row, group]:g}",
        )


def check_codes(codes: np.ndarray, bits: int, name: str) -> None:
    """codes: [out, in * bits / 8]; refuse the 2-bit code 3."""
    from ..bits import illegal_code

    if bits == 2 and (at := illegal_code(codes)) is not None:
        row, column = divmod(at, codes.shape[1] * 4)
        refuse(name, f"row {row}, column {column}", "code 3; a ternary pack holds 0, 1 and 2")


def refuse(name: str, place: str, what: str) -> NoReturn:
    """Say which value of a pack is not legal."""
    raise VerificationFailed(
        what,
        where=(f"tensor {name}", place),
        hint="the pack is damaged or not of this format: convert again",
    )


def json_bytes(value: Any) -> bytes:
    """Deterministic JSON for people and programs."""
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()
