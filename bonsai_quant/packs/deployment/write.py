"""Write what stands beside a transformer; every file that is read is hashed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

from bonsai_quant.core.schema import FileRecord
from bonsai_quant.packs.source_record import SourceFileRecord
from bonsai_quant.sources.components import ComponentFile
from bonsai_quant.storage import fs
from bonsai_quant.storage.copy import copy_file
from bonsai_quant.storage.staging import Staging

from . import affine, hqq_process
from .contents import Beside, Deployment, Quantized

Tell = Callable[[int, int], None]
"""Called with bytes read and tensors finished."""


def deploy(
    staging: Staging, folder: str, deployment: Deployment, *, threads: int, tell: Tell
) -> Beside:
    """Write a deployment into a folder of the output ("" for the output itself)."""
    work = _Work(staging, f"{folder}/" if folder else "")
    for path, file in sorted(deployment.copies.items()):
        work.copy(path, file)
        tell(file.size, 0)
    for path, data in sorted(deployment.small.items()):
        work.small(path, data)
    if deployment.encoder is not None:
        work.encoder(deployment.encoder, threads, tell)
    return Beside(tuple(work.files), tuple(work.read[name] for name in sorted(work.read)))


@dataclass(slots=True)
class _Work:
    staging: Staging
    prefix: str
    files: list[FileRecord] = field(default_factory=list)
    read: dict[str, SourceFileRecord] = field(default_factory=dict)

    def copy(self, path: str, file: ComponentFile) -> None:
        size, sha256 = copy_file(self.staging, self.prefix + path, file.path)
        self._note(file, sha256)
        self.files.append(FileRecord(path, size, sha256))

    def small(self, path: str, data: bytes) -> None:
        self.staging.write_file(self.prefix + path, data)
        self.files.append(FileRecord(path, len(data), hashlib.sha256(data).hexdigest()))

    def encoder(self, quantized: Quantized, threads: int, tell: Tell) -> None:
        if quantized.by == "hqq":
            self._by_hqq(quantized, tell)
            return
        record, digests = affine.write(
            self.staging, self.prefix + quantized.path, quantized.encoder, threads, tell
        )
        for file in quantized.files:
            self._note(file, digests.get(file.path) or fs.sha256_file(file.path)[1])
        self.files.append(FileRecord(quantized.path, record.size, record.sha256))

    def _by_hqq(self, quantized: Quantized, tell: Tell) -> None:
        for file in quantized.files:
            self._note(file, fs.sha256_file(file.path)[1])
        result = hqq_process.make(self.staging, self.prefix + quantized.path, quantized.encoder)
        self.files.append(FileRecord(quantized.path, result.size, result.sha256))
        self.small(f"{quantized.folder}/config.json", result.config)
        tell(sum(f.size for f in quantized.files), len(quantized.encoder.tensors))

    def _note(self, file: ComponentFile, sha256: str) -> None:
        """Check a file that was read whole, and note its hash."""
        file.check(sha256)
        self.read[file.name] = SourceFileRecord(name=file.name, size=file.size, sha256=sha256)
