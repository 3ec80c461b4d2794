"""Reading a pack back, in any format, ours or published by others."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bonsai_quant.core.errors import BadInput, VerificationFailed
from bonsai_quant.core.schema import PackedLayer, PackInfo, PackTensor, StoredTensor, TensorSpec
from bonsai_quant.packs.formats.format import all_specs, stored_parts
from bonsai_quant.packs.formats.kept import nearest_kept
from bonsai_quant.sources.families import detect
from bonsai_quant.storage import tensors

from .config import config_of
from .find import PackFolder, look, require_packs
from .formats import FORMATS, Format
from .manifest import Manifest

log = logging.getLogger(__name__)
KEPT_BY_OTHERS = ("BF16", "F16", "F32")
"""What kept tensors may be in packs of other programs; clients cast them to 16 bits of theirs."""


@dataclass(frozen=True, slots=True)
class Pack:
    """An opened pack. stored: name -> where its bytes are. manifest: None in packs of others.

    foreign: the manifest of another program as parsed, empty where there is none.
    fd: the weight file while `integrity.held` keeps it open; otherwise each read opens it.
    """

    folder: Path
    format: Format
    info: PackInfo
    stored: Mapping[str, StoredTensor]
    manifest: Manifest | None
    foreign: Mapping[str, Any] = field(default_factory=dict)
    fd: int | None = None

    def parts(self, tensor: PackTensor) -> list[np.ndarray]:
        """The stored arrays of a tensor, in the order of the format's `parts`."""
        return [self._read(s.name) for s in stored_parts(self.format, tensor, self.info.bits)]

    def layer(self, tensor: PackTensor, parts: list[np.ndarray] | None = None) -> PackedLayer:
        """A packed layer in canonical form; VerificationFailed at the first illegal value."""
        out, n = tensor.shape
        arrays = self.parts(tensor) if parts is None else parts
        try:
            return self.format.decode(tensor.linear, (out, n), self.info.bits, arrays)
        except VerificationFailed as e:
            e.where = (self.path, *e.where)
            raise

    def kept(self, tensor: PackTensor) -> np.ndarray:
        """A kept tensor as float16."""
        return self.kept_and_rounded(tensor)[0]

    def kept_and_rounded(self, tensor: PackTensor) -> tuple[np.ndarray, int]:
        """A kept tensor as float16, and how many values had to be rounded for it.

        None in a pack of this program. Other programs keep bf16 as trained, which below 2^-17 is
        finer than fp16.
        """
        try:
            parts = self.parts(tensor)
            if self.manifest is None and tensor.name in self.stored:
                dtype = self.stored[tensor.name].spec.dtype
                return nearest_kept(parts[0], dtype, tensor.name)
            return self.format.kept.decode(tensor, parts), 0
        except VerificationFailed as e:
            e.where = (self.path, *e.where)
            raise

    @property
    def path(self) -> Path:
        """The weight file."""
        return self.folder / self.format.weights_path(self.info.mode)

    def _read(self, name: str) -> np.ndarray:
        return tensors.read(self.stored[name], self.fd)


def open_pack(place: Path | PackFolder) -> Pack:
    """Open a pack of any format; its weight file must hold exactly the tensors it calls for."""
    folder = look(place) if isinstance(place, Path) else place
    if folder.format is None or folder.weights is None:
        raise BadInput(
            "is not a pack",
            where=str(folder.path),
            hint=f"give a folder with {FORMATS['bonsai'].weights_path('ternary')}, or "
            "see `bonsai-quant inspect`",
        )
    name, path, manifest = folder.format, folder.weights, folder.own_manifest()
    if manifest and manifest.format != name:
        raise BadInput(
            f"holds a {name} pack, but its manifest says {manifest.format}",
            where=str(folder.path),
            hint="convert again",
        )
    fmt = FORMATS[name]
    inventory = fmt.inventory(path, manifest)
    model = detect(_as_checkpoint(inventory.tensors, path), str(path))
    config = config_of(path.parent, model)
    info = PackInfo(model.base, inventory.mode, config, inventory.tensors)
    _check_specs(fmt, info, inventory.stored, manifest is None, path)
    return Pack(folder.path, fmt, info, inventory.stored, manifest, folder.foreign or {})


def _as_checkpoint(tensors: tuple[PackTensor, ...], path: Path) -> dict[str, StoredTensor]:
    """The model's tensors as a checkpoint would hold them, for its family to recognise."""
    return {t.name: StoredTensor(TensorSpec(t.name, "BF16", t.shape), path, 0) for t in tensors}


def _check_specs(
    fmt: Format, info: PackInfo, stored: Mapping[str, StoredTensor], foreign: bool, path: Path
) -> None:
    """Exactly the tensors that the format calls for. foreign: written by another program."""
    expected = {s.name: s for s in all_specs(fmt, info)}
    kept = {t.name for t in info.kept}
    for name in sorted(set(expected) | set(stored)):
        if name not in stored:
            raise BadInput("is missing", where=(path, f"tensor {name}"), hint="convert again")
        if name not in expected:
            raise BadInput(
                "has no place in this format, and clients refuse the file for it",
                where=(path, f"tensor {name}"),
                hint="convert again",
            )
        actual, wanted = stored[name].spec, expected[name]
        also = _also(fmt, name, name in kept) if foreign else ()
        if actual.dtype not in (wanted.dtype, *also) or actual.shape != wanted.shape:
            raise BadInput(
                f"is {actual.dtype} {list(actual.shape)}, "
                f"expected {wanted.dtype} {list(wanted.shape)}",
                where=(path, f"tensor {name}"),
                hint="convert again",
            )


def _also(fmt: Format, name: str, kept: bool) -> tuple[str, ...]:
    """Further dtypes that a tensor may have in packs of other programs."""
    ending = f".{name.rpartition('.')[2]}"
    return KEPT_BY_OTHERS if kept else fmt.foreign_dtypes.get(ending, ())


def open_one(path: Path) -> Pack:
    """The pack at `path`, or the first of those that a conversion put there."""
    return open_pack(require_packs(path)[0])
