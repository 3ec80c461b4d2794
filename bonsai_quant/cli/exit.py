"""How the program ends: signals, failures, lost streams, and the documented exit codes."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

import click

from bonsai_quant.core.errors import EnvironmentFault
from bonsai_quant.core.stopping import INTERRUPTED, Stopped, ask_to_stop

from .failure import Typed, print_failure, print_line

_CODES = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 143, "SIGBREAK": 143}
SIGNALS: dict[int, int] = {
    getattr(signal, name): code for name, code in _CODES.items() if hasattr(signal, name)
}
"""The signals that stop a run, with the exit code of each. Windows has no SIGHUP, others no
SIGBREAK."""
GRACE_S = 1.0
"""How long threads may take to end after a signal; then the process ends without them."""
STOPPING = "stopping: writing a checkpoint first; the same signal again ends at once"


@contextmanager
def stopping_on_signals(typed: Typed) -> Iterator[None]:
    """The first signal unwinds the stack; a second one, or the end of GRACE_S, exits at once.

    Nothing is lost by that: a killed run can be resumed as well. A run that stops by itself (see
    `core.stopping`) is asked to, and takes as long as writing its state takes.
    """
    handled = [n for n in SIGNALS if signal.getsignal(n) != signal.SIG_IGN]  # as `nohup` leaves it

    def exit_at_once(code: int) -> NoReturn:
        print_failure(typed.interrupted(code), typed)
        os._exit(code)

    def stop(number: int, frame: FrameType | None) -> None:
        code = SIGNALS[number]
        for n in handled:
            signal.signal(n, lambda *_: exit_at_once(code))
        if ask_to_stop(code):
            if os.environ.get("RANK", "0") == "0":  # torchrun's first process speaks for all
                print_line(STOPPING, sys.stderr)
            return
        timer = threading.Timer(GRACE_S, exit_at_once, (code,))
        timer.daemon = True
        with suppress(RuntimeError):  # no thread can be started: a second signal still ends it
            timer.start()
        raise Stopped(code)

    previous = {n: signal.signal(n, stop) for n in handled}
    try:
        yield
    finally:
        for n, handler in previous.items():
            signal.signal(n, handler)


def fill_standard_streams() -> None:
    """Open the descriptors 0 to 2 that are closed, or the next file would get their number.

    Printing to such a stream fails, as it must: nobody would see it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            os.dup2(os.open(os.devnull, os.O_RDONLY), number)
            mode = "w" if number else "r"
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def report_failure(e: BaseException, typed: Typed) -> int:
    """Print one line about a failure, and an object with --json; -> its exit code."""
    if isinstance(e, SystemExit):
        if not isinstance(e.__context__, OSError):
            return e.code if isinstance(e.code, int) else 1
        e = e.__context__  # click exits by itself when a pipe is closed
    if isinstance(e, click.exceptions.Exit):
        return e.exit_code
    if isinstance(e, Stopped | KeyboardInterrupt | click.Abort):
        stop = e if isinstance(e, Stopped) else Stopped(INTERRUPTED)
        failure = typed.interrupted(stop.code, stop.reached)
    else:
        failure = typed.failure(e)
    print_failure(failure, typed)
    return failure.code


def exit_with(code: int) -> NoReturn:
    """Exit without Python's own complaint about a lost stream, and without waiting for threads."""
    at_once = code in SIGNALS.values()
    for stream in (sys.stderr, sys.stdout):
        try:
            stream.flush()
        except OSError:
            at_once = True
            if stream is sys.stdout:
                code = code or EnvironmentFault.exit_code
    if at_once:
        os._exit(code)
    sys.exit(code)
