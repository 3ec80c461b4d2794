"""The file that moments go to, and what an interrupted run left in it."""

from __future__ import annotations

import numpy as np

from bonsai_quant.core.schema import StoredTensor
from bonsai_quant.storage.journal import Journal
from bonsai_quant.storage.tensors import read
from bonsai_quant.storage.writer import WeightFile, sums_from_json


class MomentStore:
    """The moments that are on disk already, and where new ones go."""

    def __init__(self, file: WeightFile, journal: Journal) -> None:
        self.file, self.journal = file, journal
        self.held = set()
        for name, entry in journal.entries.items():
            sums = sums_from_json({name: entry.get("sums")})
            if sums is not None and file.holds(name, sums[name]):
                self.held.add(name)

    def put(self, name: str, moments: np.ndarray) -> None:
        """Write, and note that it is there."""
        self.file.put(name, moments)
        sums = self.file.sums[name]
        self.journal.add({"tensor": name, "sums": [sums.xxh3, sums.crc32]})

    def get(self, name: str) -> np.ndarray:
        """Read what an interrupted run wrote."""
        spec = next(s for s in self.file.layout.specs if s.name == name)
        stored = StoredTensor(spec, self.file.path, self.file.layout.offsets[name])
        return read(stored, self.file.fd)
