"""Tensors of a calibration on disk: those that an interrupted run left, and the new ones."""

from __future__ import annotations

import numpy as np

from bonsai_quant.core.schema import StoredTensor
from bonsai_quant.storage.journal import Journal
from bonsai_quant.storage.tensors import read
from bonsai_quant.storage.writer import WeightFile, sums_from_json


class Store:
    """Writes tensors to a file, and reads them back. stored: the names that are in it."""

    def __init__(self, file: WeightFile, journal: Journal) -> None:
        self.file, self.journal = file, journal
        self.stored = set()
        for name, entry in journal.entries.items():
            sums = sums_from_json({name: entry.get("sums")})
            if sums is not None and file.holds(name, sums[name]):
                self.stored.add(name)

    def put(self, name: str, values: np.ndarray) -> None:
        """Write a tensor, and note in the journal that it is there."""
        self.file.put(name, values)
        sums = self.file.sums[name]
        self.journal.add({"tensor": name, "sums": [sums.xxh3, sums.crc32]})

    def get(self, name: str) -> np.ndarray:
        """Read a tensor, in its shape."""
        spec = next(s for s in self.file.layout.specs if s.name == name)
        stored = StoredTensor(spec, self.file.path, self.file.layout.offsets[name])
        return read(stored, self.file.fd)
