"""A text encoder in one file, in the way that a scheme says, written in little memory."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from bonsai_quant.core.errors import BadInput
from bonsai_quant.core.schema import NUMPY_DTYPE, FileRecord, StoredTensor
from bonsai_quant.core.threads import Pool
from bonsai_quant.quantization.bf16 import from_bf16
from bonsai_quant.sources.components import TextEncoder
from bonsai_quant.storage import fs
from bonsai_quant.storage.containers.safetensors import parse_header
from bonsai_quant.storage.staging import Staging
from bonsai_quant.storage.writer import WeightFile

from .scheme import Scheme

BLOCK = 8 << 20
"""Bytes of source read and rounded at a time."""


def memory(scheme: Scheme, encoder: TextEncoder, threads: int) -> int:
    """Bytes at the worst moment: blocks in flight, and the largest tensors' codes."""
    packed = (t.spec for t in encoder.tensors if scheme.packed(t.spec))
    largest = max((sum(s.nbytes for s in scheme.specs(spec)) for spec in packed), default=0)
    return (2 * (2 * threads + 2) + threads) * 2 * BLOCK + 2 * largest


def write(
    staging: Staging,
    relative: str,
    scheme: Scheme,
    encoder: TextEncoder,
    threads: int,
    tell: Callable[[int], None],
) -> tuple[FileRecord, dict[Path, str]]:
    """Read every weight file once, from front to back; -> the new file, and sha256 of those read.

    tell: called with bytes read.
    """
    file = WeightFile(staging, relative, scheme.layout(encoder), resume=False)
    digests = {}
    try:
        with Pool(threads) as pool:
            for path in encoder.files:
                hasher = hashlib.sha256()
                for data, work, in_order in _read(path, scheme, encoder, file, tell):
                    # One hashing thread: the order of submission is the order of the bytes.
                    pool.submit(hasher.update, data.data.cast("B"), hashing=True)
                    pool.submit(work, data, hashing=in_order)
                pool.drain()
                digests[path] = hasher.hexdigest()
        size, sha256 = file.finish()
    finally:
        file.close()
    return FileRecord(relative, size, sha256), digests


Work = Callable[[np.ndarray], None]


def _read(
    path: Path,
    scheme: Scheme,
    encoder: TextEncoder,
    file: WeightFile,
    tell: Callable[[int], None],
) -> Iterator[tuple[np.ndarray, Work, bool]]:
    """Every byte of a file, in order: blocks, what is to be done with each, whether in order."""
    expected = {t.spec.name: t for t in (*encoder.tensors, *encoder.unused) if t.path == path}
    unused = {t.spec.name for t in encoder.unused}
    fd, info = fs.open_regular(path)
    try:
        header = parse_header(fd, info.st_size, path)
        if {t.spec.name: t for t in header.tensors} != expected:
            raise fs.changed(path)
        yield np.frombuffer(fs.pread(fd, header.data_start, 0, path), np.uint8), _nothing, True
        for stored in header.tensors:
            at: Callable[[int], Work] = _left_out
            packed = scheme.packed(stored.spec)
            if stored.spec.name not in unused:
                at = (_Packed if packed else _Kept)(stored, scheme, file, tell).at
            for row, data in _blocks(stored, fd):
                yield data, at(row), not packed
        if fs.identity(os.fstat(fd)) != fs.identity(info):
            raise fs.changed(path)
    finally:
        os.close(fd)


def _nothing(data: np.ndarray) -> None:
    """For bytes that are only hashed."""


def _left_out(row: int) -> Work:
    """For tensors that are only hashed."""
    return _nothing


def _blocks(stored: StoredTensor, fd: int) -> Iterator[tuple[int, np.ndarray]]:
    """Whole rows at a time, as [rows, width] of the stored dtype; vectors in one piece."""
    rows = stored.spec.shape[0] if len(stored.spec.shape) == 2 else 1
    row_bytes = stored.spec.nbytes // rows
    step = max(1, BLOCK // row_bytes)
    for row in range(0, rows, step):
        n = min(step, rows - row)
        data = np.empty(n * row_bytes, np.uint8)
        fs.pread_into(fd, data.data, stored.offset + row * row_bytes, stored.path)
        yield row, data.view(NUMPY_DTYPE[stored.spec.dtype]).reshape(n, -1)


class _Kept:
    """Writes one tensor without codes, block after block."""

    def __init__(
        self,
        stored: StoredTensor,
        scheme: Scheme,
        file: WeightFile,
        tell: Callable[[int], None],
    ) -> None:
        self.stored, self.scheme, self.tell = stored, scheme, tell
        self.write = file.stream(stored.spec.name)

    def at(self, row: int) -> Work:
        """What is to be done with any block; they come in order."""
        return self._add

    def _add(self, data: np.ndarray) -> None:
        self.write(data if self.scheme.kept is None else _as_bf16(self.stored, data))
        self.tell(data.nbytes)


class _Packed:
    """Collects the codes of one tensor, from any thread, and writes them when it is whole."""

    def __init__(
        self,
        stored: StoredTensor,
        scheme: Scheme,
        file: WeightFile,
        tell: Callable[[int], None],
    ) -> None:
        self.stored, self.scheme, self.file, self.tell = stored, scheme, file, tell
        self.missing = stored.spec.shape[0]
        self.arrays: tuple[np.ndarray, ...] = ()
        self.lock = threading.Lock()

    def at(self, row: int) -> Work:
        """What is to be done with the block that begins at this row."""
        return lambda data: self._add(row, data)

    def _add(self, row: int, data: np.ndarray) -> None:
        parts = self.scheme.quantize(_as_bf16(self.stored, data))
        with self.lock:
            if not self.arrays:
                rows = self.stored.spec.shape[0]
                self.arrays = tuple(np.empty((rows, p.shape[1]), p.dtype) for p in parts)
        for array, part in zip(self.arrays, parts, strict=True):
            array[row : row + len(data)] = part
        with self.lock:
            self.missing -= len(data)
            done = not self.missing
        if done:
            self._finish()
        self.tell(data.nbytes)

    def _finish(self) -> None:
        # What is done must not stay in memory.
        arrays, self.arrays = self.arrays, ()
        for spec, array in zip(self.scheme.specs(self.stored.spec), arrays, strict=True):
            self.file.put(spec.name, array)


def _as_bf16(stored: StoredTensor, data: np.ndarray) -> np.ndarray:
    """Stored values as bf16 bits; refuses what they cannot hold."""
    from bonsai_quant.quantization.affine4 import not_finite
    from bonsai_quant.quantization.bf16 import to_bf16

    bits = data if stored.spec.dtype == "BF16" else to_bf16(data)
    if (bad := not_finite(bits)) is not None:
        raise BadInput(
            f"{float(_values(data, stored.spec.dtype)[bad]):g} does not fit bf16",
            where=(stored.path, f"tensor {stored.spec.name}"),
            hint="fetch the text encoder again, or pass --transformer-only",
        )
    return bits


def _values(data: np.ndarray, dtype: str) -> np.ndarray:
    """Stored values as numbers, to show one."""
    flat = data.reshape(-1)
    return from_bf16(flat) if dtype == "BF16" else flat
