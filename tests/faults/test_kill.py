"""SIGKILL at every change of a file: the output is absent, old or complete, and resume ends it."""

from __future__ import annotations

import errno
import itertools
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bonsai_quant.core.errors import OutputExists
from bonsai_quant.storage import fs

from .harness import World, beside, call_main, die, digests, in_child, nothing, seam, start

OTHERS = ("create", "truncate", "fsync", "rename", "mkdir", "unlink", "rmdir")


def kill_everywhere(
    world: World,
    out: Path,
    prepare: Callable[[], object],
    *,
    operations: tuple[str, ...] = (),
    step: int = 1,
    **options: bool,
) -> int:
    """Kill at the n-th operation for n = 1, 1 + step, ... until a run ends; -> the last n."""
    for n in itertools.count(1, step):
        prepare()
        before = digests(out)
        with seam(n, die, operations):
            status = in_child(lambda: world.convert(out, **options)).status
        assert status in (0, -signal.SIGKILL), n
        check(world, out, before, options, f"killed at operation {n}")
        if status == 0:
            return n
    raise AssertionError


def check(world: World, out: Path, before: object, options: dict[str, bool], when: str) -> None:
    """The output is as before or complete; with --resume it becomes complete, and nothing else."""
    found = digests(out)
    assert found in (before, world.golden), when
    if found != world.golden or beside(out):
        options = {"overwrite": found is not None} | options
        with seam(0, nothing):
            world.convert(out, **options | {"resume": True})
    assert digests(out) == world.golden, when
    assert beside(out) == set(), when
    shutil.rmtree(out)


@pytest.mark.heavy
@pytest.mark.parametrize("operations", [OTHERS, ("pwrite",)], ids=["others", "pwrite"])
@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_in_a_new_conversion(world, tmp_path, operations, step):
    step = step if operations == ("pwrite",) else min(step, 2)
    points = kill_everywhere(
        world, tmp_path / "out", lambda: None, operations=operations, step=step
    )
    assert points > 50


@pytest.mark.heavy
@pytest.mark.parametrize("operations", [OTHERS, ("pwrite",)], ids=["others", "pwrite"])
@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_while_overwriting(world, tmp_path, operations, step):
    out, step = tmp_path / "out", step if operations == ("pwrite",) else min(step, 3)
    points = kill_everywhere(
        world, out, lambda: world.put_old(out), operations=operations, step=step, overwrite=True
    )
    assert points > 50


@pytest.fixture(scope="module")
def half_done(world, tmp_path_factory) -> Path:
    """What a run killed in its middle left."""
    folder = tmp_path_factory.mktemp("half")
    with seam(150, die):
        assert in_child(lambda: world.convert(folder / "out")).status == -signal.SIGKILL
    return folder / ".out.staging"


@pytest.mark.heavy
@pytest.mark.parametrize("operations", [OTHERS, ("pwrite",)], ids=["others", "pwrite"])
@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_while_resuming(world, tmp_path, half_done, operations, step):
    out, step = tmp_path / "out", step if operations == ("pwrite",) else min(step, 2)

    def prepare() -> None:
        shutil.copytree(half_done, tmp_path / ".out.staging")

    points = kill_everywhere(world, out, prepare, operations=operations, step=step, resume=True)
    assert 40 < points < 300  # what was finished is not written again


def plain_renames_only(*_: object) -> None:
    raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


@pytest.mark.heavy
def test_killed_where_renames_cannot_exchange(world, tmp_path, monkeypatch):
    """Some file systems rename only plainly: the old pack may be away, and is put back."""
    monkeypatch.setattr(fs, "_renameat2", plain_renames_only)
    out = tmp_path / "out"
    world.put_old(out)
    for operations in (("rename",), ("unlink", "rmdir")):
        for n in itertools.count(1):
            with seam(n, die, operations):
                status = in_child(lambda: world.convert(out, overwrite=True)).status
            if not out.exists():
                with pytest.raises(OutputExists, match="is back"):
                    world.convert(out, overwrite=True)
            check(world, out, world.old, {}, f"{operations} {n}")
            world.put_old(out)
            if status == 0:
                break


@pytest.mark.heavy
def test_killed_at_random_times(world, tmp_path):
    """The command line, 30 times, over the whole of its run."""
    out, chance = tmp_path / "out", random.Random(7)
    began = time.monotonic()
    in_child(lambda: call_main(world.arguments(out)))
    whole = time.monotonic() - began
    shutil.rmtree(out)
    killed = 0
    for k in range(30):
        if k % 2:
            world.put_old(out)
        pid = os.fork()
        if pid == 0:
            os._exit(call_main(world.arguments(out, *["--overwrite"] * (k % 2)))[0])
        time.sleep(chance.uniform(0, whole))
        os.kill(pid, signal.SIGKILL)
        killed += os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0
        check(world, out, world.old if k % 2 else None, {}, f"random kill {k}")
    assert killed > 15


@pytest.mark.slow
def test_real_processes_killed_at_random_times(world, tmp_path):
    out, chance = tmp_path / "out", random.Random(8)
    for k in range(50):
        process = start(world.arguments(out))
        time.sleep(chance.uniform(0.3, 1.6))
        process.kill()
        process.communicate()
        check(world, out, None, {}, f"random kill {k}")
