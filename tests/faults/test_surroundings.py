"""Clocks, temporary folders, homes, locales, networks and caches do not matter."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time

import pytest

from tests.support.watching import without_progress

from .harness import ROOT, beside, digests, in_child


def test_jumping_clocks_change_nothing(world, tmp_path, monkeypatch):
    year, calls = 365 * 86400, iter(range(10**6))
    real = time.time()
    monkeypatch.setattr(time, "time", lambda: real + (20, -20, 0)[next(calls) % 3] * year)
    monkeypatch.setattr(time, "time_ns", lambda: int(time.time() * 10**9))
    world.convert(tmp_path / "out")
    assert digests(tmp_path / "out") == world.golden


def test_mtimes_in_the_future_change_nothing(world, tmp_path):
    from bonsai_quant import convert

    source = tmp_path / "source" / "transformer"
    shutil.copytree(world.source, source)
    for path in (*source.iterdir(), source):
        os.utime(path, (5 * 10**9, 5 * 10**9))
    convert(str(source), mode="ternary", out=tmp_path / "out")
    assert digests(tmp_path / "out") == world.golden


def test_temporary_files_stand_beside_the_output(world, tmp_path, monkeypatch):
    temporary, home = tmp_path / "tmp", tmp_path / "here"
    temporary.mkdir()
    home.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    assert in_child(lambda: world.convert(home / "out")).status == 0
    assert digests(home / "out") == world.golden
    assert os.listdir(temporary) == []
    assert beside(home / "out") == set()


def bare_environment() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "LC_ALL": "C", "PYTHONPATH": str(ROOT)}


def without_network() -> list[str]:
    if not shutil.which("unshare") or subprocess.run(["unshare", "-n", "true"]).returncode:
        pytest.skip("needs the right to leave the network")
    return ["unshare", "-n"]


@pytest.mark.heavy
def test_no_home_no_locale_no_network(world, tmp_path):
    command = [*without_network(), sys.executable, "-m", "bonsai_quant"]
    out = tmp_path / "\u00fc out"  # a name that LC_ALL=C cannot print
    for arguments in (world.arguments(out), ["verify", str(out), "--against", world.source]):
        done = subprocess.run(
            [*command, *arguments], env=bare_environment(), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert without_progress(done.stderr) == ""
    assert digests(out) == world.golden


NOWHERE_TO_CACHE = """
# Where nothing can be mounted, the same thing by pretending.
from numba.core import caching
def refuse(self):
    raise OSError(30, 'Read-only file system')
for name in dir(caching):
    kind = getattr(caching, name)
    if isinstance(kind, type) and hasattr(kind, 'ensure_cache_path'):
        kind.ensure_cache_path = refuse
from bonsai_quant.cli import main
from tests.support.watching import without_progress
main()
"""


READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'


@pytest.mark.heavy
def test_an_installation_and_a_home_that_are_read_only(world, tmp_path):
    """Nowhere to cache machine code: it is compiled each time."""
    inside = ["unshare", "-m", "sh", "-c", READ_ONLY, str(ROOT)]
    command = [sys.executable, "-c", NOWHERE_TO_CACHE]
    if shutil.which("unshare") and not subprocess.run([*inside, "true"]).returncode:
        command = [*inside, sys.executable, "-m", "bonsai_quant"]
    done = subprocess.run(
        [*command, *world.arguments(tmp_path / "out")],
        env=bare_environment() | {"HOME": "/proc/nowhere"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert without_progress(done.stderr) == ""
    assert digests(tmp_path / "out") == world.golden


@pytest.mark.heavy
def test_a_full_disk_for_the_cache_of_machine_code(world, tmp_path, small_disk):
    folder = small_disk("size=100k")
    done = subprocess.run(
        [sys.executable, "-m", "bonsai_quant", *world.arguments(tmp_path / "out")],
        env=bare_environment() | {"NUMBA_CACHE_DIR": str(folder)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert without_progress(done.stderr) == ""
    assert digests(tmp_path / "out") == world.golden
