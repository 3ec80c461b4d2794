"""What `doctor` says of the packages and the machine: true, narrow, without network or secrets."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import stat
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants

from bonsai_quant.cli import doctor as doctoring
from bonsai_quant.cli import machine
from bonsai_quant.cli.doctor import doctor
from bonsai_quant.cli.terminal import rendered
from bonsai_quant.cli.views.packs import diagnosed
from bonsai_quant.core import requirements
from bonsai_quant.core.requirements import install

SECRET = "hf_notforanybodyseyes"
PARTS = ["core", "run", "train", "mlx", "gemlite", "hqq", "diffusers", "onnx", "processor",
         "memory", "gpu", "login", "cache", "disk"]  # fmt: skip


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A machine without token, cache and GPU."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(machine, "_say", lambda *_: "")
    disk = SimpleNamespace(free=73_000_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk)
    return tmp_path


def of(part):
    return next(f for f in doctor() if f.part == part)


@pytest.fixture
def bare(monkeypatch):
    """Nothing optional is installed."""
    monkeypatch.setattr(requirements, "installed", lambda name: None)
    for module in (doctoring, machine):
        monkeypatch.setattr(module, "installed", lambda name: None)


def test_text_and_json_tell_the_same_without_network(home, no_network, run):
    done = run("doctor", "--json")
    findings = json.loads(done.out)["findings"]
    assert [f["part"] for f in findings] == PARTS
    assert set(findings[0]) == {"part", "works", "detail", "hint", "use"}
    text = run("doctor").out
    for finding in findings:
        assert finding["detail"] in text and finding["use"] in text
        assert finding["hint"] in text


def test_each_extra_that_is_missing_has_its_command_on_a_line_of_its_own(home, bare, run):
    text = run("doctor").out.splitlines()
    for extra in ("run", "train", "mlx", "gemlite", "diffusers", "onnx"):
        assert [line for line in text if line == f"  {install(extra)}"]
    assert len([line for line in text if line.startswith("  pip install -e")]) == 6
    for line in text:
        if line.startswith("  "):
            assert shlex.split(line)[0] in ("pip", "hf")


@pytest.mark.parametrize("width", [60, 80])
def test_it_fits_a_narrow_terminal(home, bare, width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / ("long" * 20)))
    shown = re.sub(r"\x1b\[[0-9;]*m", "", rendered(diagnosed(doctor()).parts))
    assert max(map(len, shown.splitlines())) <= width
    assert f"  {install('gemlite')}" in shown.splitlines()


@pytest.mark.parametrize("where", ["variable", "file"])
def test_a_token_is_seen_and_never_shown(home, where, monkeypatch, run):
    assert (of("login").works, of("login").hint) == (None, "hf auth login")
    if where == "file":
        (home / "token").write_text(SECRET)
    else:
        monkeypatch.setenv("HF_TOKEN", SECRET)
    assert of("login").works is True
    for done in (run("doctor"), run("doctor", "--json"), run("doctor", "-v")):
        assert SECRET not in done.out + done.err


def test_the_cache_is_measured_without_counting_links(home):
    assert of("cache").detail == "nothing yet in ~/hub"
    blobs = home / "hub" / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "x").write_bytes(bytes(2_500_000))
    (blobs.parent / "link").symlink_to(blobs / "x")
    assert of("cache").detail == "2.50 MB in ~/hub"


def test_an_nvidia_gpu_is_named_by_its_driver(home, monkeypatch):
    assert of("gpu").works is None
    monkeypatch.setattr(
        machine, "_say",
        lambda *words: "NVIDIA H100 80GB HBM3, 81559\nNVIDIA L4, 23034"
        if words[0] == "nvidia-smi" else "",
    )  # fmt: skip
    assert of("gpu").detail == "NVIDIA H100 80GB HBM3, 85.5 GB (CUDA); NVIDIA L4, 24.2 GB (CUDA)"


def test_apples_gpu_is_named(home, monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert (of("gpu").works, "MPS" in of("gpu").detail) == (True, True)


@pytest.mark.parametrize(("flags", "said"), [("sse avx2 fma", "AVX2"), ("sse", "no AVX2")])
def test_the_processor_is_named(flags, said, home, monkeypatch):
    info = f"processor\t: 0\nmodel name\t: Toy 9000 @ 1GHz\nflags\t\t: {flags}\n"
    monkeypatch.setattr(machine, "_read", lambda path: info)
    assert of("processor").detail == f"Toy 9000 @ 1GHz, {os.cpu_count()} cores, {said}"


def test_without_sysconf_and_psutil_memory_is_not_known(home, bare, monkeypatch):
    monkeypatch.delattr(os, "sysconf")  # as on Windows
    found = of("memory")
    assert (found.works, found.hint) == (None, "pip install psutil")


def test_memory_is_the_same_with_and_without_psutil(home, bare, monkeypatch):
    without = machine.memory()
    monkeypatch.setattr(machine, "installed", lambda name: "1")
    assert machine.memory() == pytest.approx(without, rel=0.01)


def test_a_program_that_hangs_or_fails_says_nothing(tmp_path, monkeypatch):
    for name, body in {"fails": "echo no; exit 1", "works": "echo yes"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(stat.S_IRWXU)
    assert machine._say(str(tmp_path / "works")) == "yes"
    assert machine._say(str(tmp_path / "fails")) == ""
    assert machine._say(str(tmp_path / "absent")) == ""

    def hang(*_, **__):
        raise subprocess.TimeoutExpired("nvidia-smi", 5)

    monkeypatch.setattr(subprocess, "run", hang)
    assert machine._say("works") == ""
