"""The weights of a source, some rows at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bonsai_quant.core.schema import PlannedTensor
from bonsai_quant.quantization.bf16 import as_float32, from_stored
from bonsai_quant.sources.lora.merge import merged, read_factors
from bonsai_quant.storage.tensors import read_rows

WEIGHTS = 1 << 21
"""Weights read at a time."""


def blocks(planned: PlannedTensor) -> Iterator[tuple[int, np.ndarray]]:
    """-> the first row of a block, and its weights [rows, ...] float32, with LoRAs added."""
    shape = planned.tensor.shape
    rows = max(1, WEIGHTS // max(1, planned.tensor.size // shape[0]))
    factors = read_factors(planned.deltas, shape) if planned.deltas else None
    for piece in planned.pieces:
        for start in range(piece.start, piece.stop, rows):
            stop = min(start + rows, piece.stop)
            at = piece.at + start - piece.start
            values = read_rows(piece.stored, start, stop)
            values = values.reshape(stop - start, *shape[1:])
            values = from_stored(values, piece.stored.spec.dtype)
            if factors is not None:
                values = merged(np.ascontiguousarray(values), factors, at)
            yield at, as_float32(values)


def whole(planned: PlannedTensor) -> np.ndarray:
    """All of a small tensor, float32."""
    out = np.empty(planned.tensor.shape, np.float32)
    for at, values in blocks(planned):
        out[at : at + len(values)] = values
    return out
