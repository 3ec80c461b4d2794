"""Ctrl-C, SIGTERM, SIGHUP and lost streams: the documented exit code, soon, and nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bonsai_quant.storage import writer

from .harness import LIMIT_S, ROOT, beside, digests, finish, in_child, nothing, one_line, seam
from .harness import start as start_command

SLOWLY = str(Path(__file__).with_name("slowly.py"))
SOON_S = 2.0


def start(operations: str, seconds: float, arguments: list[str], **options) -> subprocess.Popen:
    """The command line in a process of its own, with operations that take so long."""
    return subprocess.Popen(
        [sys.executable, SLOWLY, operations, str(seconds), *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def wait_for(process: subprocess.Popen, operations: int) -> None:
    """Until the process has begun so many of its slow operations."""
    for _ in range(operations):
        assert process.stdout.readline(), process.stderr.read()


def interrupted(process: subprocess.Popen, *signals: int) -> tuple[int, str]:
    """Send signals, a moment apart; -> exit code and stderr of a process that ended soon."""
    began = time.monotonic()
    for number in signals:
        process.send_signal(number)
        time.sleep(0.05)
    try:
        _, err = process.communicate(timeout=LIMIT_S)
    finally:
        process.kill()
    assert time.monotonic() - began < SOON_S
    return process.returncode, err


def last_line(err: str) -> str:
    """What is said at the end, below the lines of progress."""
    return err.splitlines(keepends=True)[-1]


def resumed(world, out: Path) -> None:
    if digests(out) != world.golden or beside(out):
        with seam(0, nothing):
            world.convert(out, resume=True, overwrite=out.exists())
    assert digests(out) == world.golden
    assert beside(out) == set()


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("signals", "code"),
    [
        ([signal.SIGINT], 130),
        ([signal.SIGINT, signal.SIGINT], 130),
        ([signal.SIGTERM], 143),
        ([signal.SIGHUP], 143),
        ([signal.SIGTERM, signal.SIGINT, signal.SIGHUP], 143),
    ],
    ids=str,
)
def test_interrupted_in_the_middle(world, tmp_path, signals, code):
    out = tmp_path / "out"
    process = start("pwrite", 0.02, world.arguments(out))
    wait_for(process, 120)
    status, err = interrupted(process, *signals)
    assert status == code
    assert one_line(last_line(err))
    assert "--resume" in err
    assert not out.exists()
    assert beside(out) == {".out.staging"}
    resumed(world, out)


@pytest.mark.heavy
@pytest.mark.parametrize("overwrite", [False, True])
def test_interrupted_during_the_final_rename(world, tmp_path, overwrite):
    out = tmp_path / "out"
    if overwrite:
        world.put_old(out)
    process = start("rename", 0.4, world.arguments(out, *["--overwrite"] * overwrite))
    wait_for(process, 1)
    status, err = interrupted(process, signal.SIGINT)
    assert status == 130
    assert one_line(last_line(err))
    assert digests(out) in (world.golden, world.old if overwrite else None)
    resumed(world, out)


@pytest.mark.heavy
def test_threads_that_hang_are_left_behind(world, tmp_path):
    """As on a dead network disk: the process ends without them."""
    process = start("fsync", 30, world.arguments(tmp_path / "out"))
    wait_for(process, 2)  # the first two weight files, in threads
    status, err = interrupted(process, signal.SIGINT)
    assert status == 130
    assert one_line(last_line(err))
    resumed(world, tmp_path / "out")


@pytest.mark.heavy
def test_nohup_is_respected(world, tmp_path):
    ignore = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)}
    process = start("pwrite", 0.005, world.arguments(tmp_path / "out"), **ignore)
    wait_for(process, 50)
    process.send_signal(signal.SIGHUP)
    assert finish(process).code == 0
    assert digests(tmp_path / "out") == world.golden


def test_a_library_call_stops_hashing_when_interrupted(world, tmp_path, monkeypatch):
    """Without the command line's handlers: reading back does not go on to the end."""
    real, told = writer.WeightFile._read, []

    def read(self, *args):
        if not told:
            told.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
        return real(self, *args)

    def work() -> float:
        try:
            world.convert(tmp_path / "out")
        except KeyboardInterrupt:
            return time.monotonic() - told[0]
        raise AssertionError

    monkeypatch.setattr(writer.WeightFile, "_read", read)
    assert in_child(work).value < 1
    monkeypatch.undo()
    resumed(world, tmp_path / "out")


# Streams that are lost


@pytest.mark.heavy
def test_stdout_is_full(world, tmp_path):
    with open("/dev/full", "w") as full:
        done = finish(start_command(world.arguments(tmp_path / "out"), stdout=full))
    assert done.code == 6
    assert one_line(done.err)
    assert "could not be printed: No space left on device" in done.err
    assert digests(tmp_path / "out") == world.golden


@pytest.mark.heavy
def test_stdout_is_a_closed_pipe(world, tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    done = finish(start_command(world.arguments(tmp_path / "out"), stdout=writing))
    os.close(writing)
    assert done.code == 6
    assert one_line(done.err)
    assert "could not be printed: Broken pipe" in done.err
    assert digests(tmp_path / "out") == world.golden


@pytest.mark.heavy
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed(world, tmp_path, closed):
    """No file of ours gets the number of a closed stream, where prints would end up in it."""
    command = f'exec "$0" -m bonsai_quant "$@" {closed}'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable, *world.arguments(tmp_path / "out")],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == (6 if " >&-" in f" {closed}" else 0), done.stderr
    assert "Traceback" not in done.stderr
    assert digests(tmp_path / "out") == world.golden


@pytest.mark.heavy
def test_stderr_is_full(world, tmp_path):
    """What it would have said is lost; exit code and result are not."""
    with open("/dev/full", "w") as full:
        out = tmp_path / "out"
        done = finish(start_command(world.arguments(out, "--verbose"), stderr=full))
        assert done.code == 0
        assert "pictures: rounding only" in done.out
        assert digests(out) == world.golden
        assert finish(start_command(world.arguments(out), stderr=full)).code == 7
        both = {"stdout": full, "stderr": full}
        assert finish(start_command(["inspect", str(out)], **both)).code == 6


def test_a_reader_that_goes_away(world):
    """`bonsai-quant plan --json | head -1`, with more output than a pipe holds."""
    process = start_command(["plan", world.source, "--mode", "ternary", "--json", "--verbose"])
    process.stdout.close()
    process.stdout = None
    done = finish(process)
    assert done.code == 6
    assert done.err.splitlines()[-1].startswith("error[environment]: the answer could not be")


def test_debug_keeps_the_exit_code(run):
    done = run("inspect", "/nowhere", "--debug")
    assert done.code in (2, 3)
    assert "Traceback" in done.err
    assert done.err.splitlines()[-1].startswith("error[")
