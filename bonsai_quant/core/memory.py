"""Memory of this process and of the machine."""

from __future__ import annotations

from .errors import EnvironmentFault
from .numbers import size


def require(
    need: int,
    free: int,
    allowed: int | None = None,
    *,
    problem: str,
    hint: str,
    where: str = "",
) -> None:
    """Refuse work that takes more bytes than are free, or than the user allows.

    problem: the need in words, which the message begins with.
    """
    limit = free if allowed is None else min(free, allowed)
    if need > limit:
        word = "allowed" if limit == allowed else "free"
        raise EnvironmentFault(f"{problem}, and {size(limit)} are {word}", where=where, hint=hint)


def room_for(n_bytes: int, subject: str) -> None:
    """Refuse before loading what would not fit into memory. subject: what is loaded."""
    require(
        n_bytes,
        available(),
        problem=f"{subject} takes {size(n_bytes)} of memory",
        hint="close other programs, or use a larger machine",
    )


def available() -> int:
    """Bytes of the machine that a process can still take."""
    import psutil

    return int(psutil.virtual_memory().available)


def resident() -> int:
    """Bytes of this process in memory, libraries included."""
    import psutil

    return int(psutil.Process().memory_info().rss)
