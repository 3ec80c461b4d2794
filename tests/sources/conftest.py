"""A Hub with the tiny pipeline, and a LoRA for its transformer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bonsai_quant import convert
from tests.support import loras
from tests.support.fakehub import FakeHub, use
from tests.support.loras import STYLES

NAME = "org/klein"
WEIGHTS = "diffusion_pytorch_model.safetensors"
OPTIONS = {"mode": "ternary", "formats": "bonsai", "threads": 2}


@pytest.fixture
def remote(cache, monkeypatch):
    """An empty fake Hub that the client talks to."""
    with FakeHub(NAME) as server:
        use(server.url, monkeypatch)
        yield server


@pytest.fixture(scope="session")
def pipeline_folder(tiny, tmp_path_factory) -> Path:
    """A whole pipeline: the tiny transformer and a text encoder that nobody needs."""
    folder = tmp_path_factory.mktemp("pipeline")
    (folder / "transformer").symlink_to(tiny, target_is_directory=True)
    (folder / "text_encoder").mkdir()
    (folder / "text_encoder" / "model.safetensors").write_bytes(b"x" * 100_000)
    (folder / "model_index.json").write_text("{}")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """A pipeline's files: through the link to its transformer too."""
    files = {p.relative_to(folder): p for d in (folder, *folder.iterdir()) if d.is_dir()
             for p in d.iterdir() if p.is_file()}  # fmt: skip
    return {str(k): p.read_bytes() for k, p in files.items()}


@pytest.fixture(scope="session")
def files(pipeline_folder) -> dict[str, bytes]:
    return contents(pipeline_folder)


@pytest.fixture(scope="session")
def local(tiny, tmp_path_factory) -> dict[str, bytes]:
    """The pack made from the folder itself: what every download must give."""
    out = tmp_path_factory.mktemp("local") / "out"
    convert(str(tiny), out=out, **OPTIONS)
    return packed(out)


def packed(out: Path) -> dict[str, bytes]:
    """Every file of a pack but the manifest, which names the source."""
    about = ("manifest.json", "README.md")
    found = (p for p in out.rglob("*") if p.is_file() and p.name not in about)
    return {str(p.relative_to(out)): p.read_bytes() for p in found}


def source_of(out: Path) -> dict:
    return json.loads((out / "bonsai" / "manifest.json").read_text())["source"]


@pytest.fixture(scope="session")
def pairs():
    return loras.pairs()


@pytest.fixture(scope="session")
def lora(pairs, tmp_path_factory):
    """A LoRA for every linear, in diffusers' spelling."""
    return STYLES["diffusers"](tmp_path_factory.mktemp("lora") / "style.safetensors", pairs)
