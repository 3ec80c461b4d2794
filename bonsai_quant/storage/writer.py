"""The one place that writes weights: any tensor in any order, then read back and hashed."""

from __future__ import annotations

import hashlib
import os
import threading
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import xxhash

from bonsai_quant.core.errors import EnvironmentFault, VerificationFailed
from bonsai_quant.storage.containers.layout import Layout

from . import fs
from .staging import Staging

PIECE = 4 << 20
"""Bytes written or read back at a time."""


@dataclass(frozen=True, slots=True)
class Sums:
    """Checksums of one tensor's bytes: xxh3 finds accidents, the CRC is what zips store."""

    xxh3: str
    crc32: int


class WeightFile:
    """A weight file in a staging folder, filled tensor by tensor. Safe to use from many threads."""

    def __init__(self, staging: Staging, relative: str, layout: Layout, *, resume: bool) -> None:
        self.relative, self.layout = relative, layout
        self.path = staging.path / relative
        self.sums: dict[str, Sums] = {}
        self._specs = {s.name: s for s in layout.specs}
        self._lock = threading.Lock()
        self._stopped = False
        fd = staging.reopen(relative) if resume else None
        if fd is None:
            staging.discard(relative)
            fd = staging.create(relative)
        self.fd = fd
        try:
            self._set_size()
        except BaseException:
            os.close(fd)
            raise

    def _set_size(self) -> None:
        if os.fstat(self.fd).st_size != self.layout.size:
            with fs.explained(self.path, "setting the size"):
                fs.change("truncate", os.ftruncate, self.fd, self.layout.size)

    def stop(self) -> None:
        """Let a `finish` that runs in another thread fail soon: its result is not wanted."""
        self._stopped = True

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.fd)

    def put(self, name: str, data: np.ndarray) -> None:
        """Write a tensor's data, of exactly the planned size."""
        if data.nbytes != self._specs[name].nbytes:
            nbytes = self._specs[name].nbytes
            raise AssertionError(f"{name}: {data.nbytes} bytes for a place of {nbytes}")
        self.stream(name)(data)

    def stream(self, name: str) -> Callable[[np.ndarray], None]:
        """What writes a tensor's data when it is called with one piece after the other."""
        spec, sums, done = self._specs[name], _Running(self.layout.needs_crc), 0

        def add(data: np.ndarray) -> None:
            nonlocal done
            flat = np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
            if done + len(flat) > spec.nbytes:
                raise AssertionError(f"{name}: more than the {spec.nbytes} bytes of its place")
            for at in range(0, len(flat), PIECE):
                piece = flat[at : at + PIECE]
                sums.update(piece)
                fs.pwrite_all(self.fd, piece, self.layout.offsets[name] + done + at, self.path)
            done += len(flat)
            if done == spec.nbytes:
                with self._lock:
                    self.sums[name] = sums.result()

        return add

    def holds(self, name: str, sums: Sums) -> bool:
        """Whether an earlier run wrote this tensor completely; if so it counts as written."""
        spec = self._specs.get(name)
        if spec is None:
            return False
        running = _Running(self.layout.needs_crc)
        self._read(self.layout.offsets[name], spec.nbytes, running)
        if running.result() != sums:
            return False
        self.sums[name] = sums
        return True

    def finish(self) -> tuple[int, str]:
        """Write all that is not tensor data, force to disk, read back; -> size and sha256."""
        crcs = {name: s.crc32 for name, s in self.sums.items()}
        if missing := set(self._specs) - set(self.sums):
            raise AssertionError(f"{self.relative}: {len(missing)} tensors were never written")
        frames = self.layout.frames(crcs)
        for offset, data in frames:
            fs.pwrite_all(self.fd, data, offset, self.path)
        fs.fsync(self.fd, self.path)
        return self.layout.size, self._read_back(frames)

    def _read_back(self, frames: list[tuple[int, bytes]]) -> str:
        """sha256 of the file as it now reads; refuses any byte that is not as written."""
        digest = hashlib.sha256()
        ranges: list[tuple[int, int, str, bytes]] = [(at, len(b), "", b) for at, b in frames]
        ranges += [(self.layout.offsets[n], s.nbytes, n, b"") for n, s in self._specs.items()]
        end = 0
        for start, size, name, expected in sorted(ranges):
            if start != end:
                raise AssertionError(f"{self.relative}: bytes {end} to {start} belong to nothing")
            end = start + size
            running = _Running(crc=False, also=digest)
            self._read(start, size, running)
            meant = self.sums[name].xxh3 if name else xxhash.xxh3_128_hexdigest(expected)
            if running.result().xxh3 != meant:
                raise VerificationFailed(
                    fs.READS_BACK,
                    where=(self.path, name or "header"),
                    hint="use another disk",
                )
        if end != self.layout.size or os.fstat(self.fd).st_size != end:
            raise EnvironmentFault(
                f"is not {self.layout.size} bytes long",
                where=str(self.path),
                hint="something else wrote to it; run again",
            )
        return digest.hexdigest()

    def _read(self, start: int, size: int, into: _Running) -> None:
        buffer = bytearray(min(size, PIECE))
        for at in range(0, size, PIECE):
            if self._stopped:
                raise InterruptedError(f"{self.path}: the run was stopped")
            piece = memoryview(buffer)[: min(PIECE, size - at)]
            fs.pread_into(self.fd, piece, start + at, self.path)
            into.update(piece)


class _Running:
    """Checksums over pieces."""

    def __init__(self, crc: bool, also: hashlib._Hash | None = None) -> None:
        self._xxh, self._crc, self._with_crc, self._also = xxhash.xxh3_128(), 0, crc, also

    def update(self, piece: memoryview) -> None:
        self._xxh.update(piece)
        if self._with_crc:
            self._crc = zlib.crc32(piece, self._crc)
        if self._also:
            self._also.update(piece)

    def result(self) -> Sums:
        return Sums(self._xxh.hexdigest(), self._crc)


def sums_from_json(value: object) -> dict[str, Sums] | None:
    """What a journal says of a file's tensors; None when it is not of that form."""
    if not isinstance(value, Mapping):
        return None
    sums = {}
    for name, pair in value.items():
        if not (
            isinstance(pair, list)
            and len(pair) == 2
            and isinstance(pair[0], str)
            and isinstance(pair[1], int)
        ):
            return None
        sums[str(name)] = Sums(pair[0], pair[1])
    return sums
