"""A system without what Windows lacks: the package starts, reads, and says what it cannot write."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bonsai_quant.storage import system

LACKING = """
import click, huggingface_hub, jinja2, numba, numpy, psutil, pydantic, yaml
import rich.console, rich_click
import os, pkgutil, shutil, signal, sys
usage = shutil.disk_usage('.')
shutil.disk_usage = lambda _: usage  # Windows' own needs no statvfs
for name in ("SIGHUP", "SIGALRM", "SIGKILL", "setitimer", "ITIMER_REAL"):
    delattr(signal, name)
for name in ("sysconf", "statvfs", "pread", "preadv", "pwrite", "pwritev", "geteuid", "getuid",
             "fork", "sched_getaffinity", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC"):
    delattr(os, name)
os.supports_dir_fd = set()
for name in ("fcntl", "resource", "pwd", "grp", "termios", "tty"):
    sys.modules[name] = None
"""
HEAVY = ("torch", "mlx", "mlx_lm", "diffusers", "transformers", "gemlite", "triton", "hqq")
IMPORT_ALL = f"""
for name in {HEAVY}: sys.modules[name] = None
import bonsai_quant
for module in pkgutil.walk_packages(bonsai_quant.__path__, "bonsai_quant."):
    if module.name != "bonsai_quant.__main__":
        try:
            __import__(module.name)
        except ImportError as e:
            assert e.name and e.name.split(".")[0] in {HEAVY}, (module.name, e)
print("imported")
"""
RUN = """
from bonsai_quant.cli.main import main
main(sys.argv[1:])
"""


def lacking(code: str, *arguments: str) -> subprocess.CompletedProcess:
    """Python that is made to lack those things, in a process of its own."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.run([sys.executable, "-c", LACKING + code, *arguments], env=environment,
                          capture_output=True, text=True)  # fmt: skip


def test_every_module_can_be_imported():
    done = lacking(IMPORT_ALL)
    assert (done.returncode, done.stdout) == (0, "imported\n"), done.stderr


@pytest.mark.heavy
@pytest.mark.parametrize(("line", "says"), [
    ("--help", "Make packs:"),
    ("plan mini-klein --mode ternary", "ternary"),
    ("inspect mini-klein", "mini-klein"),
    ("verify mini-klein-ternary", "2 passed"),
    ("doctor", "memory"),
])  # fmt: skip
def test_what_reads_works(line, says):
    done = lacking(RUN, *line.split())
    assert done.returncode == 0, done.stderr
    assert says in done.stdout


@pytest.mark.heavy
def test_what_writes_says_what_it_needs(tmp_path):
    done = lacking(RUN, "convert", "mini-klein", "--mode", "ternary", "-o", str(tmp_path / "out"))
    assert (done.returncode, done.stdout) == (6, "")
    assert "error[environment]: " in done.stderr and "WSL on Windows" in done.stderr
    assert not list(tmp_path.iterdir())


def test_reads_and_writes_at_an_offset_need_no_pread(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(100)))
    monkeypatch.delattr(os, "preadv")
    monkeypatch.delattr(os, "pwrite")
    fd = os.open(path, os.O_RDWR)
    try:
        buffer = bytearray(10)
        assert system.read_at(fd, memoryview(buffer), 95) == 5
        assert buffer[:5] == bytes(range(95, 100))
        assert system.write_at(fd, memoryview(b"abc"), 50) == 3
    finally:
        os.close(fd)
    assert path.read_bytes()[49:54] == b"1abc5"
