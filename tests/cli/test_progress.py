"""What a person sees while a command runs: on a terminal, in a pipe, and when the stream breaks."""

from __future__ import annotations

import io
import os
import pty
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from bonsai_quant.cli.progress import Display
from bonsai_quant.cli.quiet_stream import QuietStream
from tests.support.watching import without_progress


class Clock:
    """A clock that stands until it is set forward."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Broken(io.StringIO):
    """A stream that fails at every write with an exception of that kind."""

    def __init__(self, kind: type[BaseException]) -> None:
        super().__init__()
        self.kind, self.tries = kind, 0

    def write(self, text):
        self.tries += 1
        raise self.kind("no longer there")


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def piped(clock, monkeypatch):
    """A display on a pipe that writes when the test says `tick`, and its stream."""
    monkeypatch.setattr(Display, "_write_lines", lambda self: None)
    stream = io.StringIO()
    display = Display(stream, clock=clock)
    display.start()
    yield display, stream
    display.stop()


def after(display, clock, seconds):
    clock.now += seconds
    display.tick()


def test_a_pipe_gets_one_plain_line_every_few_seconds(piped, clock):
    display, stream = piped
    display.phase("converting", 116, "tensors", work=1000)
    clock.now += 2
    display.advance(10, work=200)  # with the warm-up: no rate yet
    after(display, clock, 2.9)
    assert stream.getvalue() == ""
    display.advance(24, work=210)  # 210 in 2.9 s
    after(display, clock, 0.1)
    assert stream.getvalue() == ("converting: 34 of 116 tensors, 41.0 %, 0:05, about 0:09 left\n")
    after(display, clock, 4.9)
    assert stream.getvalue().count("\n") == 1
    after(display, clock, 0.1)
    assert (
        stream.getvalue().splitlines()[1].startswith("converting: 34 of 116 tensors, 41.0 %, 0:10")
    )


def test_a_short_command_stays_silent_in_a_pipe(piped, clock):
    display, stream = piped
    display.phase("reading source")
    after(display, clock, 4.9)
    display.stop()
    assert stream.getvalue() == ""


def test_tests_know_a_line_of_progress(piped, clock):
    display, stream = piped
    for label, total, unit in (("reading", None, ""), ("converting", 116, "tensors"),
                               ("fetching", 10**9, "bytes")):  # fmt: skip
        display.phase(label, total, unit)
        display.advance(0)
        after(display, clock, 31)
        display.advance(3)
        display.note("loss 0.12")
        after(display, clock, 31)
    assert stream.getvalue().count("\n") == 6
    assert without_progress(f"{stream.getvalue()}error[input]: a: b\n") == "error[input]: a: b\n"


def test_after_a_minute_lines_are_rarer(piped, clock):
    display, stream = piped
    display.phase("training", 1000, "updates")
    for _ in range(120):
        after(display, clock, 1)
    assert stream.getvalue().count("\n") == 11 + 2


def test_the_time_left_does_not_count_the_warm_up(piped, clock):
    display, stream = piped
    display.phase("denoising", 4, "steps")
    clock.now += 60  # compiling and the first step
    display.advance()
    display.tick()
    assert "left" not in stream.getvalue()
    clock.now += 30
    display.advance()
    display.tick()
    assert "2 of 4 steps, 50.0 %, 1:30, about 1:00 left" in stream.getvalue()


def test_the_time_left_runs_down_and_is_not_shown_when_it_has_proved_wrong(piped, clock):
    display, stream = piped
    display.phase("writing", 100, "bytes")
    display.advance(10)
    clock.now += 10
    display.advance(30)  # 3 bytes a second
    after(display, clock, 6)
    assert stream.getvalue().endswith("0:16, about 0:14 left\n")
    after(display, clock, 14)
    assert stream.getvalue().endswith("40.0 %, 0:30\n")


def test_a_phase_without_a_total_shows_its_clock(piped, clock):
    display, stream = piped
    display.phase("loading the transformer")
    after(display, clock, 7)
    assert stream.getvalue() == "loading the transformer: 0:07\n"


def test_bytes_are_sizes_and_a_note_stands_beside_them(piped, clock):
    display, stream = piped
    display.phase("fetching", 4_200_000_000, "bytes")
    display.note("file 2/7")
    display.advance(1_180_000_000)
    after(display, clock, 7)
    assert stream.getvalue() == ("fetching: 1.18 GB of 4.20 GB, 28.1 %, file 2/7, 0:07\n")


def test_many_threads_lose_no_count(piped, clock):
    display, stream = piped
    display.phase("converting", 8000, "tensors")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: [display.advance() for _ in range(1000)], range(8)))
    after(display, clock, 7)
    assert "8,000 of 8,000 tensors, 100.0 %" in stream.getvalue()


def on_terminal(work) -> str:
    """What a terminal of 60 columns shows of a display that `work` is done with."""
    leader, follower = pty.openpty()
    shown: list[bytes] = []

    def read() -> None:
        while True:
            try:
                data = os.read(leader, 4096)
            except OSError:
                return
            if not data:
                return
            shown.append(data)

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(follower, "w") as stream:
        work(stream)
    reader.join(10)
    os.close(leader)
    return b"".join(shown).decode()


def test_a_terminal_shows_each_phase_and_is_left_clean(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")

    def work(stream) -> None:
        display = Display(stream)
        display.start()
        for label in ("reading source", "converting"):
            display.phase(label, 4, "tensors")
            display.advance(3)
            display._bar.refresh()
        display.stop()

    shown = on_terminal(work)
    assert "reading source: 3 of 4 tensors, 75.0 %, 0:00" in shown
    assert "converting: 3 of 4 tensors, 75.0 %, 0:00" in shown
    assert "\x1b[?25l" not in shown, "a killed run would leave no cursor"
    assert shown.endswith("\x1b[2K"), "the line is erased"


def test_on_a_narrow_terminal_the_label_is_cut_and_not_the_clock(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")

    def work(stream) -> None:
        display = Display(stream)
        display.start()
        display.phase("quantizing the text encoder of a deployment", 4_000_000, "bytes")
        display.advance(1_000_000)
        display._bar.refresh()
        display.stop()

    shown = on_terminal(work)
    assert re.search(r"quantizing the [a-z ]*\.\.\.: 1.00 MB of 4.00 MB, 0:0", shown)


def test_a_long_line_keeps_its_clock_and_the_time_left(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    clock = Clock()

    def work(stream) -> None:
        display = Display(stream, clock=clock)
        display.start()
        display.phase("denoising", 16, "steps")
        display.note("picture 2/4")
        for _ in range(2):
            clock.now += 3
            display.advance()
        display._bar.refresh()
        display.stop()

    assert "denoising: 2 of 16, picture 2/4, 0:06, about 0:42 left" in on_terminal(work)


def test_a_terminal_ticks_while_nothing_advances(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    clock, drawn = Clock(), threading.Event()

    class Terminal(io.StringIO):
        def isatty(self):
            return True

        def write(self, text):
            if "0:42" in text:
                drawn.set()
            return super().write(text)

    display = Display(Terminal(), clock=clock)
    display.start()
    display.phase("loading the transformer")
    clock.now += 42
    assert drawn.wait(20)
    display.stop()


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("kind", [OSError, BrokenPipeError, ValueError])
def test_a_broken_stream_stops_the_drawing_and_not_the_work(kind, live, clock, monkeypatch):
    monkeypatch.setattr(Display, "_write_lines", lambda self: None)
    stream, done = Broken(kind), []
    display = Display(stream, clock=clock, live=live)
    display.start()
    for label in ("reading source", "converting"):
        display.phase(label, 2, "tensors")
        for _ in range(2):
            display.advance()
            after(display, clock, 10)
            done.append(label)
    display.stop()
    assert done == ["reading source"] * 2 + ["converting"] * 2
    assert stream.tries == 1


def test_a_failure_of_the_drawing_itself_does_not_stop_the_work(piped, clock, monkeypatch):
    display, stream = piped
    display.phase("converting", 2, "tensors")
    monkeypatch.setattr(display._bar, "advance", lambda *_: 1 / 0)
    display.advance()
    display.phase("writing", 1)
    display.note("more")
    after(display, clock, 10)
    assert stream.getvalue() == ""


def test_a_quiet_stream_tells_the_length_of_what_is_lost():
    assert QuietStream(Broken(OSError)).write("four") == 4


@pytest.mark.parametrize(
    ("options", "lines"), [((), True), (("--quiet",), False), (("--json",), False)]
)
def test_which_commands_say_something_in_a_pipe(options, lines, tiny, tmp_path, run, monkeypatch):
    began = []
    monkeypatch.setattr(Display, "start", lambda self: began.append(self))
    done = run("convert", tiny, "--mode", "binary", "--format", "bonsai", "-o", tmp_path / "out",
               *options)  # fmt: skip
    assert done.code == 0
    assert bool(began) == lines
