"""The world of the fault tests: a tiny source and the packs that must come of it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bonsai_quant import convert, plan, verify
from tests.support import models

from .harness import MODEL, World, call_main, digests


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> World:
    folder = tmp_path_factory.mktemp("world")
    source = str(models.save_folder(folder / "transformer", models.tensors(MODEL), MODEL))
    arguments = ["convert", source, "--mode", "ternary", "-o", str(folder / "golden")]
    assert call_main(arguments)[0] == 0  # by the command line, so that all of it is imported
    convert(source, mode="binary", out=folder / "old", threads=2)
    assert not verify(folder / "golden", against=source).failed
    work = plan(source, mode="ternary", threads=2)
    return World(source, work, digests(folder / "golden"), digests(folder / "old"), folder / "old")


@pytest.fixture
def small_disk(tmp_path):
    """A tmpfs that is mounted on demand: small_disk(options) -> folder."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> Path:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True
        )
        if done.returncode:
            pytest.skip("needs the right to mount")
        return folder

    try:
        yield mount
    finally:
        subprocess.run(["umount", "-l", folder], capture_output=True)
