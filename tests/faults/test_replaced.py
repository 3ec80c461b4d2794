"""Folders, links and files that somebody replaces during the run."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from .harness import die, digests, failing, in_child, resumed, seam
from .test_kill import OTHERS, half_done  # noqa: F401

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
