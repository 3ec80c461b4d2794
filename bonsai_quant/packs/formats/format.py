"""What a format is: names and shapes of the stored tensors, and two inverse functions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from bonsai_quant.core.schema import MODES, Mode, PackedLayer, PackInfo, PackTensor, TensorSpec
from bonsai_quant.storage.containers.layout import Layout

if TYPE_CHECKING:
    from bonsai_quant.packs.manifest import Manifest

    from .inventory import Inventory
    from .kept import Kept


class Format(Protocol):
    """One way to store a pack. Stateless; a row of FORMATS, which subclasses this for its defaults.

    modes: that it can hold.
    by_default: whether `convert` writes it when no format is asked for.
    is_checkpoint: its weight file lies where any full-precision checkpoint's does, so that only a
    manifest, or the weights themselves, tell the two apart.
    has_kernel: there are kernels that compute with the stored bytes; `verification/kernels` has a
    file of the format's name that runs them.
    library, tags: of its model cards; the library is this program where there is none.
    foreign_dtypes: ending of a stored tensor -> dtypes that it has in packs of other programs too.
    """

    name: str
    kept: Kept
    modes: tuple[Mode, ...] = MODES
    by_default: bool = False
    is_checkpoint: bool = False
    has_kernel: bool = False
    library: str | None = None
    tags: tuple[str, ...] = ()
    foreign_dtypes: Mapping[str, tuple[str, ...]] = {}

    def weights_path(self, mode: Mode) -> str:
        """Path of the weight file inside the pack's folder."""

    def is_at(self, path: Path, listed: str | None) -> bool:
        """Whether the file at `weights_path` is of this format; few have to look.

        listed: the format that our manifest beside it names, "" if it is broken, None without one.
        """
        return True

    def inventory(self, path: Path, manifest: Manifest | None) -> Inventory:
        """What a weight file holds, from its header. manifest: of this program, where there is one.

        Raises BadInput (3) for a broken file, Unsupported (4) for one that no pack can be.
        """

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
        """Rows [start, stop) of the float32 weights that this format's clients compute: s * t."""
        from bonsai_quant.quantization.dequantize import weights

        return weights(layer, start, stop)

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
