"""Disks that are full, failing, lying or read-only: one line, the old pack intact, resume works."""

from __future__ import annotations

import errno
import itertools
import os
import random
import re
import shutil
import subprocess
from types import SimpleNamespace

import pytest

from bonsai_quant.core.errors import EnvironmentFault, VerificationFailed
from bonsai_quant.storage import fs

from .harness import digests, fail, failing, nothing, one_line, resumed, seam
from .test_kill import OTHERS, half_done  # noqa: F401

CODES = (errno.ENOSPC, errno.EIO, errno.EDQUOT)
FEW_AND_ALL = [7, pytest.param(1, marks=pytest.mark.slow)]


def reached(world, out, act, operations) -> int:
    """How many operations of that kind a conversion has."""
    with seam(0, act, operations) as counter:
        world.convert(out)
    shutil.rmtree(out)
    return counter.count


@pytest.mark.heavy
@pytest.mark.parametrize("overwrite", [False, True], ids=["new", "overwrite"])
@pytest.mark.parametrize("operations", [OTHERS, ("pwrite",)], ids=["others", "pwrite"])
@pytest.mark.parametrize("step", FEW_AND_ALL)
def test_disk_full_or_failing(world, tmp_path, step, operations, overwrite):
    """ENOSPC, EIO and EDQUOT, in turn, at every operation (at every seventh write)."""
    out, step = tmp_path / "out", step if operations == ("pwrite",) else 1
    if overwrite:
        world.put_old(out)
    for k in range(reached(world, tmp_path / "other", nothing, operations) // step):
        before = digests(out)
        act = fail(CODES[k % 3])
        e = failing(world, out, 1 + k * step, act, operations, overwrite=overwrite)
        if e is not None:
            assert isinstance(e, EnvironmentFault), k
            assert str(tmp_path) in str(e), k
            assert os.strerror(CODES[k % 3]) in str(e), k
            assert e.hint, k
            assert digests(out) in (before, world.golden), k
        resumed(world, out)
        if overwrite:
            world.put_old(out)


def test_a_failed_fsync_is_not_tried_again(world, tmp_path):
    """After it the cache may hold what the disk does not, so nothing is kept."""
    for n in range(1, reached(world, tmp_path / "other", nothing, ("fsync",))):
        e = failing(world, tmp_path / "out", n, fail(errno.EIO), ("fsync",))
        assert "fsync failed: Input/output error" in str(e), n
        assert "--resume" not in str(e)
        assert os.listdir(tmp_path) == [], n


def test_short_writes_are_continued(world, tmp_path):
    def short(operation, call, args, kwargs):
        fd, data, offset = args
        return call(fd, data[:997], offset)

    assert failing(world, tmp_path / "out", None, short, ("pwrite",)) is None
    resumed(world, tmp_path / "out")


def test_a_write_of_nothing_is_a_failure(world, tmp_path):
    e = failing(world, tmp_path / "out", 40, lambda *_: 0, ("pwrite",))
    assert e.exit_code == 6
    resumed(world, tmp_path / "out")


def lie(operation, call, args, kwargs):
    """Says that all was written, and stores nothing."""
    return len(args[1])


def flip(operation, call, args, kwargs):
    """Writes, then one bit changes on the disk."""
    fd, data, offset = args
    written = call(fd, data, offset)
    at = random.Random(offset).randrange(len(data))
    os.pwrite(fd, bytes([data[at] ^ 16]), offset + at)
    return written


@pytest.mark.heavy
@pytest.mark.parametrize("act", [lie, flip])
@pytest.mark.parametrize("step", FEW_AND_ALL)
def test_other_bytes_on_disk_are_caught(world, tmp_path, act, step):
    out, caught = tmp_path / "out", 0
    for n in range(1, reached(world, out, nothing, ("pwrite",)), step):
        e = failing(world, out, n, act, ("pwrite",))
        if e is None:  # the journal or the owner's name, or zeros
            assert digests(out) == world.golden, n
            shutil.rmtree(out)
            continue
        assert isinstance(e, VerificationFailed), n
        assert "reads back other bytes" in str(e), n
        assert os.listdir(tmp_path) == [], n
        caught += 1
    assert caught > 200 // step


def test_what_changed_before_the_resume_is_written_again(world, tmp_path, half_done):  # noqa: F811
    chance, out, staging = random.Random(3), tmp_path / "out", tmp_path / ".out.staging"
    for _ in range(20):
        shutil.copytree(half_done, staging)
        for _ in range(3):
            path = chance.choice(sorted(p for p in staging.rglob("*") if p.is_file()))
            with path.open("r+b") as file:
                file.seek(chance.randrange(path.stat().st_size))
                byte = file.read(1)
                file.seek(-1, os.SEEK_CUR)
                file.write(bytes([byte[0] ^ 1 << chance.randrange(8)]))
        resumed(world, out)


@pytest.mark.heavy
@pytest.mark.parametrize("step", FEW_AND_ALL)
def test_a_failing_read_names_file_and_byte(world, tmp_path, monkeypatch, step):
    out, real = tmp_path / "out", os.preadv
    for n in itertools.count(1, step):
        numbers = itertools.count(1)

        def preadv(fd, buffers, offset, n=n, numbers=numbers):
            if next(numbers) == n:
                raise OSError(errno.EIO, "Input/output error")
            return real(fd, buffers, offset)

        monkeypatch.setattr(os, "preadv", preadv)
        e = failing(world, out, 0, nothing)
        monkeypatch.undo()
        if e is None:
            break
        assert e.exit_code == 6
        # The file, and of large ones the byte.
        assert re.search(r"/[\w.-]+: reading (at byte \d+|back) failed", str(e))
        resumed(world, out)
    assert n > 100


# Known before anything is written


def test_too_little_space_is_refused_first(world, tmp_path, monkeypatch, run):
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=10, f_frsize=4096))
    done = run(*world.arguments(tmp_path / "out"))
    assert done.code == 6
    assert one_line(done.err)
    assert "needs" in done.err
    assert "40960 are free" in done.err
    assert str(tmp_path / "out") in done.err
    assert os.listdir(tmp_path) == []


def test_a_disk_that_is_too_small(world, small_disk, run):
    folder = small_disk("size=2m")
    done = run(*world.arguments(folder / "out"))
    assert done.code == 6
    assert "needs" in done.err
    assert os.listdir(folder) == []


def test_a_disk_that_fills_up(world, small_disk, run, monkeypatch):
    folder = small_disk("size=2m")
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=1 << 30, f_frsize=4096))
    done = run(*world.arguments(folder / "out"))
    assert done.code == 6
    assert one_line(done.err)
    assert "No space left on device -> free some space; the same command with --resume" in done.err
    assert not (folder / "out").exists()
    subprocess.run(["mount", "-o", "remount,size=9m", folder], check=True)
    resumed(world, folder / "out")


def test_a_read_only_disk(world, small_disk, run):
    folder = small_disk("ro")
    done = run(*world.arguments(folder / "sub" / "out"))
    assert done.code == 6
    assert one_line(done.err)
    assert "choose another output with -o" in done.err


def test_a_disk_that_becomes_read_only(world, tmp_path):
    out = tmp_path / "out"
    for n in (1, 3, 100):
        e = failing(world, out, n, fail(errno.EROFS), ("pwrite", "mkdir", "create"))
        assert e.exit_code == 6
        assert "read-only" in str(e)
    resumed(world, out)


def test_a_file_system_without_fsync_of_folders(world, tmp_path):
    import stat

    def refuse(operation, call, args, kwargs):
        if stat.S_ISDIR(os.fstat(args[0]).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")

    assert failing(world, tmp_path / "out", None, refuse, ("fsync",)) is None
    resumed(world, tmp_path / "out")


def test_every_hint_is_a_hint():
    assert all(fs.HINTS.values())
