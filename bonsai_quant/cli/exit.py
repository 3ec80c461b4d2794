"""How the program ends: signals, failures, lost streams, and the documented exit codes."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import NoReturn

import click

from bonsai_quant.core.errors import BonsaiError, EnvironmentFault, printable
from bonsai_quant.core.stopping import Stopped, ask_to_stop

SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 143}
"""The signals that stop a run, with the exit code of each."""
GRACE_S = 1.0
"""How long threads may take to end after a signal; then the process ends without them."""
INTERRUPTED = "interrupted -> a conversion continues with --resume"
STOPPING = "stopping: writing a checkpoint first; the same signal again ends at once"


@contextmanager
def stopping_on_signals() -> Iterator[None]:
    """The first signal unwinds the stack; a second one, or the end of GRACE_S, exits at once.

    Nothing is lost by that: a killed run can be resumed as well. A run that stops by itself (see
    `core.stopping`) is asked to, and takes as long as writing its state takes.
    """
    handled = [n for n in SIGNALS if signal.getsignal(n) != signal.SIG_IGN]  # as `nohup` leaves it

    def stop(number: int, frame: FrameType | None) -> None:
        code = SIGNALS[signal.Signals(number)]
        for n in (*handled, signal.SIGALRM):
            signal.signal(n, partial(_exit_at_once, code))
        if ask_to_stop(code):
            if os.environ.get("RANK", "0") == "0":  # torchrun's first process speaks for all
                _print_line(STOPPING)
            return
        signal.setitimer(signal.ITIMER_REAL, GRACE_S)
        raise Stopped(code)

    previous = {n: signal.signal(n, stop) for n in handled}
    try:
        yield
    finally:
        for n, handler in previous.items():
            signal.signal(n, handler)


def _exit_at_once(code: int, number: int, frame: FrameType | None) -> NoReturn:
    _print_line(INTERRUPTED)
    os._exit(code)


def fill_standard_streams() -> None:
    """Open the descriptors 0 to 2 that are closed, or the next file would get their number.

    Printing to such a stream fails, as it must: nobody would see it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            os.dup2(os.open(os.devnull, os.O_RDONLY), number)
            mode = "w" if number else "r"
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def report_failure(e: BaseException, command: Sequence[str] = ()) -> int:
    """Print one line about a failure; -> its exit code. command: as it was typed."""
    if isinstance(e, SystemExit):
        if not isinstance(e.__context__, OSError):
            return e.code if isinstance(e.code, int) else 1
        e = e.__context__  # click exits by itself when a pipe is closed
    if isinstance(e, click.exceptions.Exit):
        return e.exit_code
    if isinstance(e, Stopped | KeyboardInterrupt | click.Abort):
        _print_line(_how_to_continue(e.reached, command) if isinstance(e, Stopped) else INTERRUPTED)
        return e.code if isinstance(e, Stopped) else 130
    if isinstance(e, click.ClickException):
        _print_line(f"error[usage]: {printable(e.format_message())} -> see --help")
        return 2
    if isinstance(e, MemoryError):
        e = EnvironmentFault("not enough memory", hint="use fewer --threads")
    if isinstance(e, OSError):
        e = EnvironmentFault(e.strerror or str(e), where=str(e.filename or ""))
    if isinstance(e, BonsaiError):
        _print_line(f"error[{e.kind}]: {e}")
        return e.exit_code
    _print_line(
        f"error[bug]: {type(e).__name__}: {printable(e)} -> run again with --debug and report"
    )
    return 1


def _how_to_continue(reached: str, command: Sequence[str]) -> str:
    """What to type to go on. reached: how far a run came that wrote its state, or ''."""
    if not reached:
        return INTERRUPTED
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:  # torchrun's own words are not known here
        return f"{reached}; continue with the same torchrun command and --resume"
    words = list(command)
    if "--resume" not in words:
        words.insert(words.index("--") if "--" in words else len(words), "--resume")
    return f"{reached}; continue with: {shlex.join(words)}"


def _print_line(line: str) -> None:
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        pass  # stderr is full or closed: the exit code still says what happened
    except RuntimeError:
        pass  # a signal came while a line was being printed, and would print into it


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
