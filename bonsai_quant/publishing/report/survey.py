"""What is in a pack: each layer's error as convert measured it, scales and zeros as stored."""

from __future__ import annotations

import csv
from dataclasses import dataclass

import numpy as np

from bonsai_quant.core.progress import Progress, no_progress
from bonsai_quant.packs.layers_csv import COLUMNS
from bonsai_quant.packs.read import Pack
from bonsai_quant.storage import fs

LOG2_SCALE = (-14, 16)
"""Scales lie between 2^-14 and 2^16, by the format."""
PER_OCTAVE = 4


@dataclass(frozen=True, slots=True)
class LayerSurvey:
    """One packed layer. relative_error: ||w - s t|| / ||w||, None where nobody measured it.

    zero_share: of its codes; None in binary, which has no zeros.
    """

    name: str
    shape: tuple[int, int]
    relative_error: float | None
    zero_share: float | None
    scale_median: float
    scale_min: float
    scale_max: float


@dataclass(frozen=True, slots=True)
class Survey:
    """A pack's layers, and how many groups have a scale in each bin.

    bins: (lower edge, groups), a quarter of an octave wide, from the first filled to the last.
    """

    layers: tuple[LayerSurvey, ...]
    bins: tuple[tuple[float, int], ...]


def survey(pack: Pack, progress: Progress = no_progress) -> Survey:
    """Read every packed layer once."""
    measured = read_measured(pack)
    edges = np.arange(LOG2_SCALE[0] * PER_OCTAVE, LOG2_SCALE[1] * PER_OCTAVE + 1) / PER_OCTAVE
    counts = np.zeros(len(edges) - 1, np.int64)
    packed, layers = pack.info.packed, []
    progress.phase(
        f"surveying {pack.folder.name}", len(packed), "layers", work=sum(t.size for t in packed)
    )
    for tensor in packed:
        layer = pack.layer(tensor)
        scales = layer.scales.astype(np.float32)
        counts += np.histogram(np.log2(scales), edges)[0]
        layers.append(
            LayerSurvey(
                tensor.linear, layer.shape, measured.get(tensor.name),
                _zero_share(layer.codes) if layer.bits == 2 else None,
                float(np.median(scales)), float(scales.min()), float(scales.max()),
            )
        )  # fmt: skip
        progress.advance(work=tensor.size)
    filled = np.flatnonzero(counts)
    span = range(filled[0], filled[-1] + 1) if filled.size else range(0)
    return Survey(tuple(layers), tuple((float(2 ** edges[i]), int(counts[i])) for i in span))


def read_measured(pack: Pack) -> dict[str, float]:
    """relative_error by tensor, against the source; empty where nobody measured it.

    Of a trained pack it stands in the manifest: its layers.csv is about the last step alone.
    """
    record = pack.manifest.provenance if pack.manifest else None
    if record is not None and record.training is not None:
        return {f"{name}.weight": error for name, error in record.layers.items()}
    path = pack.folder / "layers.csv"
    if pack.manifest is None or not path.is_file():
        return {}
    rows = csv.DictReader(fs.read_small(path).decode(errors="replace").splitlines())
    if tuple(rows.fieldnames or ()) != COLUMNS:
        return {}
    return {r["name"]: float(r["relative_error"]) for r in rows if r["relative_error"]}


def _zero_share(codes: np.ndarray) -> float:
    """codes: [rows, bytes] uint8 at 2 bits -> share of codes that are 1, which is weight 0."""
    byte = np.arange(256)
    ones = sum(((byte >> shift) & 3 == 1).astype(np.int64) for shift in (0, 2, 4, 6))
    counts = np.bincount(codes.reshape(-1), minlength=256)
    return float((counts * ones).sum() / (4 * codes.size))
