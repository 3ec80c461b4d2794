"""Threads for work on blocks that are read one after the other."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from .errors import UsageError


class Pool:
    """Threads with a bounded queue, and one more that hashes; the first failure stops the run."""

    def __init__(self, threads: int) -> None:
        self.solvers = ThreadPoolExecutor(threads, "solve")
        self.hasher = ThreadPoolExecutor(1, "hash")
        self.limit = 2 * (2 * threads + 2)
        self.pending: deque[Future[None]] = deque()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for executor in (self.solvers, self.hasher):
            executor.shutdown(wait=True, cancel_futures=True)

    def submit(self, call: Callable[..., None], *args: object, hashing: bool = False) -> None:
        """Queue a call. hashing: run it on the one hashing thread, in the order of submission."""
        executor = self.hasher if hashing else self.solvers
        self.pending.append(executor.submit(call, *args))
        while len(self.pending) > self.limit:
            self.pending.popleft().result()

    def drain(self) -> None:
        """Wait until every queued call has run."""
        while self.pending:
            self.pending.popleft().result()


MAX_THREADS = 256


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting, its value, and where the value comes from."""

    name: str
    value: str
    origin: str


def choose_threads(threads: int | None) -> tuple[int, Setting]:
    """Threads that solve: --threads, else BONSAI_QUANT_THREADS, else every core."""
    origin, text = "flag", os.environ.get("BONSAI_QUANT_THREADS", "")
    if threads is None and text:
        origin, threads = "environment", int(text) if re.fullmatch("[0-9]{1,9}", text) else 0
    if threads is None:
        origin, threads = "default", os.cpu_count() or 1
        if hasattr(os, "sched_getaffinity"):
            threads = len(os.sched_getaffinity(0))
    if not 1 <= threads <= MAX_THREADS:
        raise UsageError(
            f"the number of threads must be 1 to {MAX_THREADS}, not {text[:40] or threads}",
            hint="pass another --threads" if origin == "flag" else "set BONSAI_QUANT_THREADS anew",
        )
    return threads, Setting("threads", str(threads), origin)
