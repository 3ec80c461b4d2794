"""Tensors of a LoRA file as float32."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from bonsai_quant.core.errors import BadInput, Unsupported
from bonsai_quant.core.schema import StoredTensor
from bonsai_quant.storage import fs
from bonsai_quant.storage.tensors import read

FACTOR_DTYPES = ("BF16", "F16", "F32")
ALPHA_DTYPES = (*FACTOR_DTYPES, "F64", "I64", "I32")


@contextmanager
def opened(stored: StoredTensor) -> Iterator[int]:
    """The file of a tensor, open for reading."""
    fd, _ = fs.open_regular(stored.path)
    try:
        yield fd
    finally:
        os.close(fd)


def read_factor(fd: int, stored: StoredTensor) -> NDArray[np.float32]:
    """`down` or `up` of a module: [r, in] or [out, r], exact, since float32 holds all three."""
    values = _read(fd, stored, FACTOR_DTYPES)
    return values.astype(np.float32, copy=False)


def read_alpha(fd: int, stored: StoredTensor) -> float:
    """One number above zero."""
    if stored.spec.shape not in ((), (1,)):
        _bad(stored, f"has shape {list(stored.spec.shape)}, expected one number")
    value = float(_read(fd, stored, ALPHA_DTYPES).reshape(-1)[0])
    if value <= 0:
        _bad(stored, f"is {value:g}, expected a number above 0")
    return value


def _read(fd: int, stored: StoredTensor, dtypes: tuple[str, ...]) -> np.ndarray:
    if stored.spec.dtype not in dtypes:
        raise Unsupported(
            f"has dtype {stored.spec.dtype}; {', '.join(dtypes)} are read",
            where=(stored.path, f"tensor {stored.spec.name}"),
            hint="use a LoRA that is not quantized",
        )
    values = read(stored, fd)
    if stored.spec.dtype == "BF16":
        values = values.view(ml_dtypes.bfloat16)
    wrong = np.flatnonzero(~np.isfinite(values))
    if wrong.size:
        _bad(stored, f"element {wrong[0]} is {float(values.flat[wrong[0]]):g}, which is not finite")
    return values


def _bad(stored: StoredTensor, what: str) -> NoReturn:
    where = (stored.path, f"tensor {stored.spec.name}")
    raise BadInput(what, where=where, hint="fetch the LoRA again")
