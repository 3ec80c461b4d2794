"""numba's compiler, set up once: no GIL inside kernels, machine code cached where possible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a loop over numpy arrays. Floating point keeps its order: same bytes everywhere."""
    try:
        return numba.njit(function, nogil=True, cache=True)  # type: ignore[no-any-return]
    except RuntimeError:  # no folder to cache in: neither the package's nor the user's is writable
        return numba.njit(function, nogil=True)  # type: ignore[no-any-return]
