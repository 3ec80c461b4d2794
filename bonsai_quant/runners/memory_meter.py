"""How much memory a stage takes: the most of many looks, while it runs."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType

LOOK_EVERY = 0.02
M_MMAP_THRESHOLD, LARGE = -3, 1 << 20
"""glibc's name for the size from which pieces are the system's, and that size here."""


def give_back() -> None:
    """Let memory go that nothing uses any more; glibc keeps freed small pieces unless told."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def hold_little() -> None:
    """Let large pieces go back to the system as soon as they are freed, from now on.

    glibc begins so, but keeps pieces of up to 32 MiB for later once some were freed: at 512 x 512
    pixels 0.3 GB, which nobody uses.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE)


class Meter:
    """`with Meter(look) as m`: afterwards m.peak is the most that `look` gave, m.seconds the time.

    look: bytes in use now.
    """

    def __init__(self, look: Callable[[], int]) -> None:
        self._look, self._done = look, threading.Event()
        self.peak, self.seconds = 0, 0.0
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Meter:
        self._started = time.perf_counter()
        self.peak = self._look()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, at: TracebackType | None
    ) -> None:
        self.seconds = time.perf_counter() - self._started
        self._done.set()
        self._thread.join()
        self.peak = max(self.peak, self._look())

    def _watch(self) -> None:
        while not self._done.wait(LOOK_EVERY):
            self.peak = max(self.peak, self._look())


@dataclass(frozen=True, slots=True)
class Stage:
    """Time and memory of one component. peak_bytes: the most in use while it ran."""

    name: str
    seconds: float
    peak_bytes: int


@dataclass
class Meters:
    """Stages that come more than once: their seconds add up, of their peaks the largest counts."""

    look: Callable[[], int]
    _stages: dict[str, Stage] = field(default_factory=dict)

    @contextlib.contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Measure what is done meanwhile as a part of this stage."""
        with Meter(self.look) as m:
            yield
        before = self._stages.get(name, Stage(name, 0.0, 0))
        peak = max(before.peak_bytes, m.peak)
        self._stages[name] = Stage(name, before.seconds + m.seconds, peak)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """All that were measured, in the order of their first time."""
        return tuple(self._stages.values())
