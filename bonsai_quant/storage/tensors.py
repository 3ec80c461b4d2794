"""The values of stored tensors, in numpy's dtypes; bf16 travels as its 16 bits."""

from __future__ import annotations

import os

import numpy as np

from bonsai_quant.core.schema import NUMPY_DTYPE, StoredTensor

from . import fs


def read(stored: StoredTensor, fd: int | None = None) -> np.ndarray:
    """The whole tensor: [*shape] in its dtype of NUMPY_DTYPE. fd: its file, if that is open."""
    data = _read_bytes(stored, stored.offset, stored.spec.nbytes, fd)
    return np.frombuffer(data, NUMPY_DTYPE[stored.spec.dtype]).reshape(stored.spec.shape)


def read_rows(stored: StoredTensor, start: int, stop: int, fd: int | None = None) -> np.ndarray:
    """The same of rows [start, stop): [stop - start, *shape[1:]]."""
    row_bytes, shape = stored.row_bytes, (stop - start, *stored.spec.shape[1:])
    data = _read_bytes(stored, stored.offset + start * row_bytes, (stop - start) * row_bytes, fd)
    values = np.frombuffer(data, NUMPY_DTYPE[stored.spec.dtype])
    return values.reshape(shape)


def _read_bytes(stored: StoredTensor, offset: int, size: int, fd: int | None) -> bytearray:
    if fd is not None:
        return fs.pread(fd, size, offset, stored.path)
    opened, _ = fs.open_regular(stored.path)
    try:
        return fs.pread(opened, size, offset, stored.path)
    finally:
        os.close(opened)
