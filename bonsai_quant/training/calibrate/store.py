"""Tensors of a calibration: on disk, those that an interrupted run left and the new ones."""

from __future__ import annotations

import numpy as np

from bonsai_quant.core.schema import StoredTensor
from bonsai_quant.storage.journal import Journal
from bonsai_quant.storage.staging import Staging
from bonsai_quant.storage.tensors import read
from bonsai_quant.storage.writer import WeightFile, sums_from_json


class Store:
    """Keeps tensors in memory, as processes do that do not write. stored: their names."""

    journal: Journal | None = None
    staging: Staging | None = None

    def __init__(self) -> None:
        self.stored: set[str] = set()
        self._values: dict[str, np.ndarray] = {}

    def put(self, name: str, values: np.ndarray) -> None:
        """Keep a tensor."""
        self._values[name] = values
        self.stored.add(name)

    def get(self, name: str) -> np.ndarray:
        """A tensor, in its shape."""
        return self._values[name]


class FileStore(Store):
    """Writes tensors to a file, and reads them back."""

    def __init__(self, file: WeightFile, journal: Journal, staging: Staging) -> None:
        super().__init__()
        self.file, self.journal, self.staging = file, journal, staging
        for name, entry in journal.entries.items():
            sums = sums_from_json({name: entry.get("sums")})
            if sums is not None and file.holds(name, sums[name]):
                self.stored.add(name)

    def put(self, name: str, values: np.ndarray) -> None:
        """Write a tensor, and note in the journal that it is there."""
        assert self.journal is not None
        self.file.put(name, values)
        self.stored.add(name)
        sums = self.file.sums[name]
        self.journal.add({"tensor": name, "sums": [sums.xxh3, sums.crc32]})

    def get(self, name: str) -> np.ndarray:
        """Read a tensor, in its shape."""
        spec = next(s for s in self.file.layout.specs if s.name == name)
        stored = StoredTensor(spec, self.file.path, self.file.layout.offsets[name])
        return read(stored, self.file.fd)
