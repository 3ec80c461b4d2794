"""Commands in processes of their own: one, and the two that torchrun would start."""

from __future__ import annotations

import os
import socket

from tests.support import warm


def start(arguments: list[str], command: str = "distill", **env: str) -> warm.Process:
    """A training in another process, with one thread as here."""
    env = os.environ | {"OMP_NUM_THREADS": "1"} | env
    return warm.Process("bonsai_quant", [command, *arguments, "-v"], env=env)


def start_two(arguments: list[str], command: str = "distill") -> list[warm.Process]:
    """What torchrun starts: two processes that find each other by their environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    ranks = [{"RANK": str(r), "LOCAL_RANK": str(r), "LOCAL_WORLD_SIZE": "2"} for r in range(2)]
    return [start(arguments, command, **group, **r) for r in ranks]
