"""Write one pack in one format into a staging folder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from bonsai_quant.core.schema import FileRecord, PackedLayer, PackInfo, PackTensor
from bonsai_quant.packs.formats.format import stored_parts
from bonsai_quant.packs.manifest import NAME, Manifest
from bonsai_quant.packs.provenance import Provenance, build_manifest, with_parts
from bonsai_quant.sources.license import CARD
from bonsai_quant.storage.staging import Staging
from bonsai_quant.storage.writer import Sums, WeightFile

from .card import render_card
from .deployment import Beside
from .formats import FORMATS


class PackWriter:
    """A folder of the output: tensors go in one by one, in any order, from any thread."""

    def __init__(
        self, staging: Staging, folder: str, format_name: str, info: PackInfo, *, resume: bool
    ) -> None:
        self.staging, self.folder, self.info = staging, folder, info
        self.format_name, self.format = format_name, FORMATS[format_name]
        path = self._inside(self.format.weights_path(info.mode))
        self.weights = WeightFile(staging, path, self.format.layout(info), resume=resume)

    def _inside(self, path: str) -> str:
        return f"{self.folder}/{path}" if self.folder else path

    def packed(self, tensor: PackTensor, layer: PackedLayer) -> dict[str, Sums]:
        """Encode and write a packed layer; -> checksums of what it became."""
        return self._put(tensor, self.format.encode(layer))

    def kept(self, tensor: PackTensor, values: np.ndarray) -> dict[str, Sums]:
        """Write a kept tensor, given as float16 that bf16 holds too."""
        return self._put(tensor, self.format.kept.encode(tensor, values))

    def _put(self, tensor: PackTensor, parts: Sequence[np.ndarray]) -> dict[str, Sums]:
        specs = stored_parts(self.format, tensor, self.info.bits)
        for spec, data in zip(specs, parts, strict=True):
            self.weights.put(spec.name, data)
        return {s.name: self.weights.sums[s.name] for s in specs}

    def holds(self, tensor: PackTensor, sums: Mapping[str, Sums]) -> bool:
        """Whether an interrupted run wrote this tensor here, checked byte for byte."""
        names = {s.name for s in stored_parts(self.format, tensor, self.info.bits)}
        return names == set(sums) and all(self.weights.holds(n, s) for n, s in sums.items())

    def finish(self, provenance: Provenance, beside: Beside = Beside()) -> Manifest:
        """Complete the folder: weights to disk and read back, sidecars, then the manifest.

        beside: what else was written into it.
        """
        path = self.format.weights_path(self.info.mode)
        size, sha256 = self.weights.finish()
        records = [FileRecord(path, size, sha256), *beside.files]
        small = dict(self.format.sidecars(self.info))
        if provenance.layers_csv is not None:
            small["layers.csv"] = provenance.layers_csv
        for path, data in sorted(small.items()):
            records.append(FileRecord(path, len(data), hashlib.sha256(data).hexdigest()))
            self.staging.write_file(self._inside(path), data)
        provenance = with_parts(provenance, beside.read)
        manifest = build_manifest(self.format_name, self.info, provenance, records)
        text = manifest.model_dump_json(indent=2).encode() + b"\n"
        self.staging.write_file(self._inside(CARD), render_card(manifest).encode())
        self.staging.write_file(self._inside(NAME), text)
        return manifest

    def written(self, manifest: Manifest) -> set[str]:
        """Every file of the finished folder, as the staging folder names it."""
        own = (CARD, NAME)
        return {self._inside(path) for path in (*own, *(f.path for f in manifest.files))}
