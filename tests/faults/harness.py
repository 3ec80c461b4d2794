"""Faults at the n-th change of a file: the seam `fs.change`, forked children, what must hold."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bonsai_quant
from bonsai_quant.cli.main import main
from bonsai_quant.conversion.convert import write_packs
from bonsai_quant.conversion.plan import Plan
from bonsai_quant.core.errors import BonsaiError
from bonsai_quant.storage import fs
from tests.support.watching import without_progress

MODEL = ((1, 1), {"h": 128, "i": 64, "o": 64, "j": 128, "t": 64, "d": 128, "m": 128})
"""Double and single blocks, and sizes as in `bases.flux2`: 700,000 weights in 29 tensors."""
LIMIT_S = 60
ROOT = Path(bonsai_quant.__file__).parents[1]

Act = Callable[[str, Callable[..., Any], tuple, dict], Any]


@dataclass(frozen=True)
class World:
    """A source, and what packs made of it must be: relative path -> sha256."""

    source: str
    plan: Plan
    golden: dict[str, str]
    old: dict[str, str]
    old_folder: Path

    def convert(self, out: Path, **options: Any) -> None:
        write_packs(self.plan, out, **options)

    def arguments(self, out: Path, *more: str) -> list[str]:
        return ["convert", self.source, "--mode", "ternary", "-o", str(out), *more]

    def put_old(self, out: Path) -> None:
        shutil.copytree(self.old_folder, out)


def digests(folder: Path) -> dict[str, str] | None:
    """sha256 of every file below a folder; None when the folder is not there."""
    if not os.path.lexists(folder):
        return None
    assert not folder.is_symlink()
    files = sorted(p for p in folder.rglob("*") if not p.is_dir())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def beside(out: Path) -> set[str]:
    """What stands in the output's folder, the output left out."""
    return set(os.listdir(out.parent)) - {out.name}


class Seam:
    """Stands in for `fs.change`: counts the operations chosen and acts on the n-th, or on all.

    Real fsyncs are left out: no test here pulls the plug, and they are slow.
    """

    def __init__(self, at: int | None, act: Act, operations: tuple[str, ...] = ()) -> None:
        self.at, self.act, self.operations = at, act, operations
        self._numbers = itertools.count(1)
        self.count = 0

    def __call__(self, operation: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not self.operations or operation in self.operations:
            self.count = next(self._numbers)
            if self.at in (None, self.count):
                return self.act(operation, call, args, kwargs)
        return None if operation == "fsync" else call(*args, **kwargs)


@contextmanager
def seam(at: int | None, act: Act, operations: tuple[str, ...] = ()) -> Iterator[Seam]:
    """The n-th operation of those chosen goes to `act`; all of them when `at` is None."""
    kept, fs.change = fs.change, Seam(at, act, operations)
    try:
        yield fs.change
    finally:
        fs.change = kept


def die(operation: str, call: Callable[..., Any], args: tuple, kwargs: dict) -> None:
    """SIGKILL before the operation; a write is half done."""
    if operation == "pwrite":
        fd, data, offset = args
        call(fd, data[: len(data) // 2], offset)
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(LIMIT_S)


def fail(code: int) -> Act:
    """An operation that fails with this errno; a write is half done."""

    def act(operation: str, call: Callable[..., Any], args: tuple, kwargs: dict) -> None:
        if operation == "pwrite":
            fd, data, offset = args
            call(fd, data[: len(data) // 2], offset)
        raise OSError(code, os.strerror(code))

    return act


def nothing(operation: str, call: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
    return call(*args, **kwargs)


def in_child(work: Callable[[], Any]) -> SimpleNamespace:
    """Run in a forked child; -> status (exit code, or minus the signal), value, and message."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        status, value, message = 70, None, ""
        signal.alarm(LIMIT_S)
        try:
            value, status = work(), 0
        except BonsaiError as e:
            status, message = e.exit_code, str(e)
        except BaseException:
            message = traceback.format_exc()
        os.write(writing, pickle.dumps((value, message)))
        os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    value, message = pickle.loads(told) if told else (None, "")
    assert status not in (70, -signal.SIGALRM), message
    return SimpleNamespace(status=status, value=value, message=message)


def call_main(arguments: list[str]) -> tuple[int, str]:
    """The command line in this process; -> exit code and stderr."""
    err = io.StringIO()
    with redirect_stderr(err), redirect_stdout(io.StringIO()):
        try:
            main(arguments)
        except SystemExit as e:
            return int(e.code or 0), err.getvalue()


def start(arguments: list[str], **options: Any) -> subprocess.Popen:
    """The real command line in a process of its own."""
    command = [sys.executable, "-m", "bonsai_quant", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | options.pop("env", {})
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    return subprocess.Popen(command, env=environment, **options)


def finish(process: subprocess.Popen) -> SimpleNamespace:
    out, err = process.communicate(timeout=LIMIT_S)
    return SimpleNamespace(code=process.returncode, out=out, err=err)


def one_line(text: str) -> bool:
    text = without_progress(text)
    return text.count("\n") == 1 and text.endswith("\n") and "Traceback" not in text


def failing(world, out, n, act, operations=(), **options) -> BonsaiError | None:
    """A conversion with a fault at the n-th operation; None when it succeeded nevertheless."""
    with seam(n, act, operations):
        try:
            world.convert(out, **options)
        except BonsaiError as e:
            return e
    assert digests(out) == world.golden
    return None


def resumed(world, out, **options) -> None:
    """What a fault left is continued to the golden bytes, and nothing stays beside them."""
    if digests(out) != world.golden or beside(out):
        with seam(0, nothing):
            world.convert(out, resume=True, overwrite=out.exists())
    assert digests(out) == world.golden
    assert beside(out) == set()
    shutil.rmtree(out)
