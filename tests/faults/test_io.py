"""Disks that are full, failing, lying or read-only: one line, the old pack intact, resume works."""

from __future__ import annotations

import errno
import itertools
import os
import random
import resource
import shutil
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from bonsai_quant.core.errors import BonsaiError, EnvironmentFault, VerificationFailed
from bonsai_quant.storage import fs

from .harness import beside, call_main, die, digests, fail, in_child, nothing, one_line, seam
from .test_kill import OTHERS, half_done  # noqa: F401

CODES = (errno.ENOSPC, errno.EIO, errno.EDQUOT)
FEW_AND_ALL = [5, pytest.param(1, marks=pytest.mark.slow)]


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
    """ENOSPC, EIO and EDQUOT, in turn, at every operation (at every fifth write)."""
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
        assert "reading at byte" in str(e)
        assert ".safetensors" in str(e) or ".pt" in str(e), str(e)
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


# Not allowed to


@pytest.fixture
def public(world):
    """A folder that everyone reaches, with a copy of the source."""
    import tempfile

    if os.geteuid():
        pytest.skip("needs root, to become somebody else")
    with tempfile.TemporaryDirectory(prefix="bonsai-public-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copytree(world.source, folder / "transformer")
        for path in folder.rglob("*.*"):
            path.chmod(0o644)
        yield folder


def as_nobody(arguments: list[str], groups: tuple[int, ...] = ()) -> SimpleNamespace:
    def work():
        os.setgroups(groups)
        os.setgid(65534)
        os.setuid(65534)
        return call_main(arguments)

    code, err = in_child(work).value
    return SimpleNamespace(code=code, err=err)


@pytest.mark.parametrize("mode", [0o555, 0o666, 0o700], ids=oct)
def test_a_folder_that_is_not_ours(world, public, mode):
    folder = public / "closed"
    folder.mkdir()
    folder.chmod(mode)
    arguments = ["convert", str(public / "transformer"), "--mode", "ternary", "-o"]
    for out in (folder / "out", folder / "deeper" / "out"):
        done = as_nobody([*arguments, str(out)])
        assert done.code == 6
        assert one_line(done.err)
        assert str(folder) in done.err
        assert "check the permissions" in done.err
        assert os.listdir(folder) == []


def test_an_old_pack_in_a_folder_that_is_not_ours(world, public):
    world.put_old(public / "out")
    source = str(public / "transformer")
    done = as_nobody(["convert", source, "--mode", "ternary", "--overwrite", "-o", f"{public}/out"])
    assert done.code == 6
    assert one_line(done.err)
    assert digests(public / "out") == world.old


def test_an_output_that_cannot_be_looked_at(public):
    (public / "out").mkdir()
    (public / "out").chmod(0o700)
    source = str(public / "transformer")
    for more in ([], ["--overwrite"]):
        done = as_nobody(["convert", source, "--mode", "ternary", "-o", f"{public}/out", *more])
        assert done.code == 6
        assert one_line(done.err)
        assert f"{public}/out: looking at the output failed: Permission denied" in done.err


def test_a_source_that_is_not_ours(public):
    (folder := public / "writable").mkdir()
    folder.chmod(0o777)
    source = public / "transformer"
    for path in (*source.iterdir(), source):
        path.chmod(0)
        done = as_nobody(["convert", str(source), "--mode", "ternary", "-o", f"{folder}/out"])
        path.chmod(0o755)
        assert done.code == 6, done.err
        assert one_line(done.err)
        assert str(path) in done.err
        assert os.listdir(folder) == []


@pytest.mark.parametrize("umask", [0o077, 0o022, 0o002], ids=oct)
def test_modes_follow_the_umask(world, tmp_path, umask):
    def work():
        os.umask(umask)
        world.convert(tmp_path / "out")

    assert in_child(work).status == 0
    for path in (tmp_path / "out", *(tmp_path / "out").rglob("*")):
        full = 0o777 if path.is_dir() else 0o666
        assert path.stat().st_mode & 0o777 == full & ~umask, path


def under_limit(world, out, which: int, value: int) -> tuple[int, str]:
    def work():
        resource.setrlimit(which, (value, value))
        return call_main(world.arguments(out))

    return in_child(work).value


def test_a_limit_on_file_sizes(world, tmp_path):
    code, err = under_limit(world, tmp_path / "out", resource.RLIMIT_FSIZE, 100_000)
    assert code == 6
    assert one_line(err)
    assert "File too large -> raise the file size limit (ulimit -f)" in err
    assert not (tmp_path / "out").exists()
    resumed(world, tmp_path / "out")


def test_a_limit_on_open_files(world, tmp_path):
    out, already = tmp_path / "out", len(os.listdir("/dev/fd"))
    for limit in itertools.count(already):
        code, err = under_limit(world, out, resource.RLIMIT_NOFILE, limit)
        if code == 0:
            break
        assert code == 6, err
        assert "Too many open files -> raise the limit of open files" in err.splitlines()[-1]
        assert not out.exists()
    assert limit < already + 20
    resumed(world, out)


# The output's folder changes during the run


@pytest.fixture
def victim(tmp_path):
    """A folder elsewhere that must stay as it is."""
    folder = tmp_path / "victim"
    (folder / "bonsai").mkdir(parents=True)
    for name in ("canary", "bonsai/model.safetensors", "manifest.json"):
        (folder / name).write_bytes(b"mine")
    before = digests(folder)
    yield folder
    assert digests(folder) == before


def at_operation(n, change):
    def act(operation, call, args, kwargs):
        change()
        return call(*args, **kwargs)

    return n, act


def replace_by_link(path: Path, target: Path) -> None:
    path.rename(path.parent / "moved")
    path.symlink_to(target)


@pytest.mark.parametrize("n", [5, 20, 100, 300, 350])
@pytest.mark.parametrize("what", [".out.staging", ".", ".out.staging/mlx"])
@pytest.mark.parametrize("how", ["link", "delete"])
def test_folders_replaced_during_the_run(world, tmp_path, victim, n, what, how):
    parent = tmp_path / "a" / "b"
    parent.mkdir(parents=True)
    path = parent / what

    def change():
        if path.exists():
            shutil.rmtree(path) if how == "delete" else replace_by_link(path, victim)

    e = failing(world, parent / "out", *at_operation(n, change))
    assert e is None or e.exit_code == 6, e
    assert e is not None or (n, what) == (5, ".out.staging/mlx"), "there was nothing yet"
    assert not os.path.lexists(victim / "out")
    assert not any(p.name == "out" and p.is_symlink() for p in tmp_path.rglob("*"))


@pytest.mark.parametrize("n", [5, 100, 380])
@pytest.mark.parametrize("overwrite", [False, True])
def test_the_output_becomes_a_link(world, tmp_path, victim, n, overwrite):
    out = tmp_path / "here" / "out"
    out.parent.mkdir()
    if overwrite:
        world.put_old(out)

    def change():
        if overwrite:
            out.rename(tmp_path / "old")
        out.symlink_to(victim)

    e = failing(world, out, *at_operation(n, change), overwrite=overwrite)
    assert e.exit_code in (6, 7), e
    assert out.readlink() == victim
    out.unlink()
    resumed(world, out)


@pytest.mark.parametrize("n", [30, 350])
def test_a_file_put_into_the_old_pack_is_not_lost(world, tmp_path, n):
    out = tmp_path / "out"
    world.put_old(out)

    def change():
        (out / "mlx" / "notes.txt").write_text("mine")

    e = failing(world, out, *at_operation(n, change), overwrite=True)
    assert e.exit_code == 7
    assert "changed while this run was working" in str(e)
    assert (out / "mlx" / "notes.txt").read_text() == "mine"
    out.rename(tmp_path.parent / f"moved{n}")
    resumed(world, out)


def test_what_is_linked_from_elsewhere_is_not_written_to(world, tmp_path):
    """Killed before it could remove the old pack, of which there is a copy made of hard links."""
    out, copy = tmp_path / "out", tmp_path.parent / "copy"
    world.put_old(out)
    shutil.copytree(out, copy, copy_function=os.link)
    with seam(1, die, ("rmdir",)):
        status = in_child(lambda: world.convert(out, overwrite=True)).status
    assert status == -signal.SIGKILL
    shutil.rmtree(out)
    resumed(world, out)
    assert digests(copy) == world.old
    shutil.rmtree(copy)


def test_a_file_system_without_fsync_of_folders(world, tmp_path):
    import stat

    def refuse(operation, call, args, kwargs):
        if stat.S_ISDIR(os.fstat(args[0]).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")

    assert failing(world, tmp_path / "out", None, refuse, ("fsync",)) is None
    resumed(world, tmp_path / "out")


def test_every_hint_is_a_hint():
    assert all(fs.HINTS.values())
