"""Fixtures that several test files share."""

from __future__ import annotations

import atexit
import gc
import io
import logging
import math
import re
import signal
import socket
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import close_session

from bonsai_quant import convert
from bonsai_quant.cli.main import main
from bonsai_quant.runners.picture_settings import read_benchmark
from tests.support import fakehub, models, pipelines

atexit.register(gc.unfreeze)  # see `frozen_heap`: what stays frozen, MLX and Triton call leaked

# A background job of a shell starts with these ignored, and so would every process of a test.
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    if signal.getsignal(number) == signal.SIG_IGN:
        python_s_own = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, python_s_own)


HEAVY = {"standin", "standin_packs", "shipped", "trained", "gemlite_checks"}
"""Fixtures that load torch or Triton: what asks for one, be it through another, is heavy."""


HEAVY_FILE = re.compile(r"^pytestmark = .*pytest\.mark\.heavy", re.MULTILINE)


def pytest_ignore_collect(collection_path, config):
    """`-m "not heavy"` does not import files that are heavy as a whole: they load torch."""
    if config.option.markexpr != "not heavy" or collection_path.suffix != ".py":
        return None
    return True if HEAVY_FILE.search(collection_path.read_text()) else None


def pytest_collection_modifyitems(config, items):
    """Tests with heavy fixtures are heavy; slow tests run when asked for: `pytest -m slow`."""
    for item in items:
        if HEAVY & set(item.fixturenames):
            item.add_marker("heavy")
        if item.get_closest_marker("slow") and "slow" not in config.option.markexpr:
            item.add_marker(pytest.mark.skip(reason="slow; run with -m slow"))


@pytest.fixture(autouse=True, scope="module")
def frozen_heap() -> None:
    """Keep loaded libraries out of the garbage collector's way.

    Runners collect garbage after each part of a pipeline. With torch, diffusers and MLX loaded one
    collection walks through a million objects that never go: 1.3 s, more than the part itself.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def level_of_the_root_logger():
    """The command line sets it: what `--quiet` leaves must not hide the next test's warnings."""
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """A tiny checkpoint in diffusers' layout."""
    return models.save_folder(tmp_path_factory.mktemp("tiny") / "transformer", models.tensors())


@pytest.fixture(scope="session", params=["ternary", "binary"])
def packs(request, tiny, tmp_path_factory) -> SimpleNamespace:
    """The tiny checkpoint in both modes, in every format that can hold it."""
    out = tmp_path_factory.mktemp(request.param) / "out"
    formats = models.FORMATS[request.param]
    made = convert(str(tiny), mode=request.param, out=out, formats=formats)
    return SimpleNamespace(mode=request.param, out=out, source=tiny, made=made, formats=formats)


@pytest.fixture(scope="session")
def standin(tmp_path_factory) -> Path:
    """A pipeline's folder with random weights; its name is that of the shipped model."""
    folder = tmp_path_factory.mktemp("data") / "mini-klein"
    return pipelines.save_pipeline(folder, heads=1, blocks=(1, 2))


@pytest.fixture(scope="session")
def standin_packs(standin, tmp_path_factory) -> Path:
    """The stand-in in ternary, as bonsai and as mlx."""
    out = tmp_path_factory.mktemp("standin") / "out"
    convert(str(standin), mode="ternary", formats="bonsai,mlx", out=out)
    return out


@pytest.fixture(scope="session")
def settings(standin):
    """How the stand-in's benchmark says to paint."""
    return read_benchmark(standin).settings


@pytest.fixture(scope="session")
def few(tmp_path_factory) -> Path:
    """Prompts in a file, so that no run has to encode many."""
    path = tmp_path_factory.mktemp("prompts") / "few.txt"
    path.write_text("\n".join(f"a {c} {s}" for c in ("red", "blue") for s in ("circle", "square")))
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache of the Hub, a token, and no waiting."""
    folder = tmp_path / "home" / "hub"
    for name, value in {"HF_HUB_CACHE": str(folder), "HF_HUB_DISABLE_XET": True,
                        "HF_HUB_OFFLINE": False, "HF_HUB_DOWNLOAD_TIMEOUT": 10,
                        "HF_TOKEN_PATH": str(tmp_path / "token")}.items():  # fmt: skip
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(time, "sleep", lambda s: None)
    monkeypatch.setenv("HF_TOKEN", fakehub.TOKEN)
    yield folder
    close_session()


@pytest.fixture
def no_network(monkeypatch) -> None:
    """Whatever connects to anything fails."""

    def refuse(*_):
        raise AssertionError("something asks the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def shipped(standin, monkeypatch) -> Path:
    """The stand-in in the place of the model that ships with the package."""
    monkeypatch.setattr("bonsai_quant.sources.shipped.DATA", standin.parent)
    return standin


@pytest.fixture
def run(monkeypatch):
    """Run the command line in this process: run(*arguments) -> code, out, err, without progress."""
    monkeypatch.setattr("bonsai_quant.cli.progress.FIRST_S", math.inf)

    def call(*arguments) -> SimpleNamespace:
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as stop:
            main([str(a) for a in arguments])
        return SimpleNamespace(code=stop.value.code, out=out.getvalue(), err=err.getvalue())

    return call
