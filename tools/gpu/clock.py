"""Seconds and bytes on a device, and how long the whole may still take."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

BATCHES, BATCH_S = 3, 0.05
"""Batches whose median counts, and about how long each is."""


class OutOfTime(Exception):
    """What is left is not measured."""


class Clock:
    """A device with a deadline. quick: one call for each figure, to walk through the code."""

    def __init__(self, device: torch.device, minutes: float, *, quick: bool = False) -> None:
        self.device, self.quick = device, quick
        self.end = time.monotonic() + 60 * minutes

    def wait(self) -> None:
        """Until the device has done all it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def milliseconds(self, call: Callable[[], Any]) -> float:
        """Of one call, after two that tune and warm up; OutOfTime when the minutes are over."""
        if time.monotonic() > self.end:
            raise OutOfTime
        for _ in range(1 if self.quick else 2):
            first = self._batch(call, 1)
        if self.quick:
            return first * 1e3
        n = min(max(math.ceil(BATCH_S / max(first, 1e-6)), 1), 200)
        return statistics.median(self._batch(call, n) / n for _ in range(BATCHES)) * 1e3

    def peak(self, call: Callable[[], Any]) -> int:
        """Bytes on the device during a call, beyond those before it; 0 where it is not told."""
        if self.device.type != "cuda":
            call()
            return 0
        self.wait()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        self.wait()
        return int(torch.cuda.max_memory_allocated()) - before

    def _batch(self, call: Callable[[], Any], n: int) -> float:
        self.wait()
        start = time.perf_counter()
        for _ in range(n):
            call()
        self.wait()
        return time.perf_counter() - start
