"""Write what stands beside a transformer; every file that is read is hashed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from bonsai_quant.core.progress import Progress
from bonsai_quant.core.schema import FileRecord
from bonsai_quant.packs.source_record import SourceFileRecord
from bonsai_quant.sources.components import ComponentFile
from bonsai_quant.storage import fs
from bonsai_quant.storage.copy import copy_file
from bonsai_quant.storage.staging import Staging

from . import encoder_file, hqq_process
from .contents import Beside, Deployment, MadeEncoder


def deploy(
    staging: Staging, folder: str, deployment: Deployment, *, threads: int, progress: Progress
) -> Beside:
    """Write a deployment into a folder of the output ("" for the output itself)."""
    work = _Work(staging, f"{folder}/" if folder else "")
    progress.phase(
        f"writing {folder}".rstrip(),
        sum(f.size for f in deployment.copies.values()),
        "bytes",
    )
    for path, file in sorted(deployment.copies.items()):
        work.copy(path, file)
        progress.advance(file.size)
    for path, data in sorted(deployment.small.items()):
        work.small(path, data)
    if deployment.encoder is not None:
        work.encoder(deployment.encoder, threads, progress)
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

    def encoder(self, made: MadeEncoder, threads: int, progress: Progress) -> None:
        if made.scheme is None:
            progress.phase("quantizing the text encoder with hqq")
            self._by_hqq(made)
            return
        progress.phase("writing the text encoder", sum(f.size for f in made.files), "bytes")
        path = self.prefix + made.path
        record, digests = encoder_file.write(
            self.staging, path, made.scheme, made.encoder, threads, progress.advance
        )
        for file in made.files:
            self._note(file, digests.get(file.path) or fs.sha256_file(file.path)[1])
        self.files.append(FileRecord(made.path, record.size, record.sha256))

    def _by_hqq(self, made: MadeEncoder) -> None:
        for file in made.files:
            self._note(file, fs.sha256_file(file.path)[1])
        result = hqq_process.make(self.staging, self.prefix + made.path, made.encoder)
        self.files.append(FileRecord(made.path, result.size, result.sha256))
        self.small(f"{made.folder}/config.json", result.config)

    def _note(self, file: ComponentFile, sha256: str) -> None:
        """Check a file that was read whole, and note its hash."""
        file.check(sha256)
        self.read[file.name] = SourceFileRecord(name=file.name, size=file.size, sha256=sha256)
