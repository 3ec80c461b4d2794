"""Folders, files and limits that are not ours: one line, and nothing changed."""

from __future__ import annotations

import itertools
import os
import resource
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from .harness import call_main, digests, in_child, one_line, resumed
from .test_kill import OTHERS, half_done  # noqa: F401

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
    already = len(os.listdir("/dev/fd"))
    for limit in itertools.count(already):
        out = tmp_path / str(limit) / "out"
        out.parent.mkdir()
        code, err = under_limit(world, out, resource.RLIMIT_NOFILE, limit)
        if code == 0:
            break
        assert code == 6, err
        assert "Too many open files -> raise the limit of open files" in err.splitlines()[-1]
        assert not out.exists()
    assert limit < already + 20
    resumed(world, out)
