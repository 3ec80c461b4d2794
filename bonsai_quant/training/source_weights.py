"""Weights of a planned source, read whole."""

from __future__ import annotations

import math

import numpy as np

from bonsai_quant.core.schema import PlannedTensor
from bonsai_quant.quantization.bf16 import as_float32, from_stored
from bonsai_quant.storage.tensors import read_rows

ROWS = 256
"""Rows whose errors are added up at a time."""


def read(tensor: PlannedTensor) -> np.ndarray:
    """A tensor's values as they are stored, put together from its pieces."""
    pieces = sorted(tensor.pieces, key=lambda p: p.at)
    rows = [read_rows(p.stored, p.start, p.stop) for p in pieces]
    return np.concatenate(rows).reshape(tensor.tensor.shape)


def as_weights(tensor: PlannedTensor) -> np.ndarray:
    """[out, in] float32."""
    return as_float32(from_stored(read(tensor), tensor.pieces[0].stored.spec.dtype))


class WeightErrors:
    """How far new weights are from those of a source. layers: ||w - t|| / ||w||, by name."""

    def __init__(self) -> None:
        self.layers: dict[str, float] = {}
        self._error = self._energy = 0.0

    def add(self, name: str, weights: np.ndarray, new: np.ndarray) -> None:
        """Compare one layer: both [out, in] float32."""
        error = energy = 0.0
        for at in range(0, len(weights), ROWS):
            w = weights[at : at + ROWS].astype(np.float64)
            error += float(np.square(w - new[at : at + ROWS]).sum())
            energy += float(np.square(w).sum())
        self.layers[name] = round(math.sqrt(error / energy), 6) if energy else 0.0
        self._error, self._energy = self._error + error, self._energy + energy

    @property
    def relative_error(self) -> float:
        """Of all layers taken as one vector."""
        return round(math.sqrt(self._error / self._energy), 9) if self._energy else 0.0
