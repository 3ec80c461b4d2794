"""Threads for work on blocks that are read one after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


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
        """Have it called soon. hashing: in the order of such calls, by one thread."""
        executor = self.hasher if hashing else self.solvers
        self.pending.append(executor.submit(call, *args))
        while len(self.pending) > self.limit:
            self.pending.popleft().result()

    def drain(self) -> None:
        """Wait for all of it."""
        while self.pending:
            self.pending.popleft().result()
