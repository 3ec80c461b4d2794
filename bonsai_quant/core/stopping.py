"""A request to stop that a long run grants when its state can be written, rather than at once.

A signal unwinds most commands where they are, and nothing is lost by that. A training holds hours
of work in memory, and writing them takes minutes. While it is inside `stopping_by_itself`, the
first signal only asks; the run writes its state and raises `Stopped` itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED = 130
"""Exit code after Ctrl-C."""


class Stopped(BaseException):
    """A signal asked to stop. It is no KeyboardInterrupt: click would turn that into an Abort.

    code: for the process to exit with.  reached: how far a run came that wrote its state, or ''.
    """

    def __init__(self, code: int, reached: str = "") -> None:
        super().__init__(code, reached)
        self.code, self.reached = code, reached


class StopRequest:
    """asked: whether to stop.  code: for the process to exit with then."""

    def __init__(self) -> None:
        self.asked, self.code = False, INTERRUPTED


_runs: list[StopRequest] = []
"""The runs that stop by themselves, innermost last: no more than one, unless they are nested."""


@contextmanager
def stopping_by_itself() -> Iterator[StopRequest]:
    """While inside, signals ask the run to stop; it looks at the request between two steps."""
    request = StopRequest()
    _runs.append(request)
    try:
        yield request
    finally:
        _runs.remove(request)


def ask_to_stop(code: int) -> bool:
    """Ask the run in progress to stop; -> whether there is one that will. Safe in a handler."""
    if not _runs:
        return False
    _runs[-1].code, _runs[-1].asked = code, True
    return True
