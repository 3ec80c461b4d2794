"""What a format is: names and shapes of the stored tensors, and two inverse functions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from bonsai_quant.core.schema import Mode, PackedLayer, PackInfo, PackTensor, TensorSpec
from bonsai_quant.storage.containers.layout import Layout

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


def json_bytes(value: Any) -> bytes:
    """Deterministic JSON for people and programs."""
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()
