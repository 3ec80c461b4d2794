"""Whether dense weights lie on a ternary or a binary grid already, told from a few groups of each.

A group on a grid has one magnitude, beside zeros if it is ternary. 128 weights of any other layer
have dozens. One damaged group does not decide: the majority of those looked at does.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from bonsai_quant.core.errors import BonsaiError
from bonsai_quant.core.schema import GROUP, Mode, StoredTensor
from bonsai_quant.sources.families import detect
from bonsai_quant.storage import fs
from bonsai_quant.storage.containers.safetensors import read_header

GROUPS = 8
"""Groups of a layer that are read, 256 bytes each."""
LAYERS = 3
"""Layers of a checkpoint that are looked at before it is taken for anything but a checkpoint."""

Kind = Literal["ternary", "binary", "dense"]


def is_on_grid(path: Path) -> bool:
    """Whether a safetensors file is a model whose layers were quantized; False if it is none."""
    try:
        tensors = {t.spec.name: t for t in read_header(path).tensors}
        layers = [t.name for t in detect(tensors, str(path)).tensors if t.packable]
        if not layers or layers[0] not in tensors:  # of the original layout
            return False
        some = {layers[i * (len(layers) - 1) // (LAYERS - 1)] for i in range(LAYERS)}
        return any(k in ("ternary", "binary") for k in kinds(tensors[n] for n in some).values())
    except BonsaiError:
        return False


def kinds(layers: Iterable[StoredTensor]) -> dict[str, Kind | None]:
    """By name, the grid that each layer lies on; None where all that was read is zero."""
    return {t.spec.name: _kind(t) for t in layers}


def mode_of(layer_kinds: Iterable[Kind | None]) -> Mode:
    """Of the whole pack: one bit per code holds no zeros, two bits hold binary layers as well."""
    return "ternary" if "ternary" in set(layer_kinds) else "binary"


def _kind(layer: StoredTensor) -> Kind | None:
    if layer.spec.dtype != "BF16" or len(layer.spec.shape) != 2 or layer.spec.shape[1] % GROUP:
        return "dense"
    votes = Counter(k for k in map(_group_kind, _groups(layer)) if k)
    if not votes:
        return None
    if 2 * votes["dense"] > votes.total():
        return "dense"
    return "ternary" if votes["ternary"] >= votes["binary"] else "binary"


def _groups(layer: StoredTensor) -> Sequence[np.ndarray]:
    """Some groups, from the first to the last, as the magnitudes' 15 bits: [128] uint16 each."""
    out, n = layer.spec.shape
    last = out * n // GROUP - 1
    fd, _ = fs.open_regular(layer.path)
    try:
        at = sorted({i * last // (GROUPS - 1) for i in range(GROUPS)})
        read = [fs.pread(fd, 2 * GROUP, layer.offset + 2 * GROUP * g, layer.path) for g in at]
    finally:
        os.close(fd)
    return [np.frombuffer(data, "<u2") & np.uint16(0x7FFF) for data in read]


def _group_kind(magnitudes: np.ndarray) -> Kind | None:
    distinct = np.unique(magnitudes)
    if distinct.size == 1:
        return "binary" if distinct[0] else None
    return "ternary" if distinct.size == 2 and distinct[0] == 0 else "dense"
