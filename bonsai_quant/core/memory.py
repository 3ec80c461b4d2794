"""Memory of this process and of the machine."""

from __future__ import annotations

from .errors import EnvironmentFault


def room_for(n_bytes: int, what: str) -> None:
    """Refuse before loading what would not fit into memory."""
    import psutil

    free = psutil.virtual_memory().available
    if n_bytes > free:
        raise EnvironmentFault(
            f"{what} takes {n_bytes / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free",
            hint="close other programs, or use a larger machine",
        )


def resident() -> int:
    """Bytes of this process in memory, libraries included."""
    import psutil

    return int(psutil.Process().memory_info().rss)
