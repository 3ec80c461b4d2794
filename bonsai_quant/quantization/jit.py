"""numba's compiler, set up once: no GIL inside kernels, machine code cached where possible."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numba


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a loop over numpy arrays. Floating point keeps its order: same bytes everywhere."""
    try:
        compiled = numba.njit(function, nogil=True, cache=True)
    except RuntimeError:  # no folder to cache in: neither the package's nor the user's is writable
        return numba.njit(function, nogil=True)  # type: ignore[no-any-return]
    compiled._cache.save_overload = _if_possible(compiled._cache.save_overload)
    return compiled  # type: ignore[no-any-return]


def _if_possible(save: Callable[..., None]) -> Callable[..., None]:
    """numba lets a compilation fail when its result cannot be cached, say on a full disk."""

    def attempt(*args: Any) -> None:
        with contextlib.suppress(OSError):
            save(*args)

    return attempt
