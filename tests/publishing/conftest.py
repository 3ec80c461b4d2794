"""A pack to publish and a Hub to publish it to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import bonsai_quant
from bonsai_quant import convert, publish
from tests.support.fakehub import use
from tests.support.writehub import WriteHub

REPO = "me/model"
WEIGHTS = "model.safetensors"
BESIDE = {"README.md", "gallery.png"}
OPTIONS = {"license": "apache-2.0"}


@pytest.fixture(scope="session")
def original(tiny, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("made") / "out"
    convert(str(tiny), mode="binary", formats="bonsai", out=out)
    return out / "bonsai"


@pytest.fixture
def pack(original, tmp_path) -> Path:
    """A pack's folder that a test may change."""
    return Path(shutil.copytree(original, tmp_path / "pack"))


@pytest.fixture
def remote(cache, monkeypatch):
    """A Hub without the repo."""
    with WriteHub(REPO) as server:
        use(server.url, monkeypatch)
        yield server


def listed(pack: Path) -> dict[str, bytes]:
    """What is to be on the Hub, but for the card, which is written anew."""
    names = [f["path"] for f in json.loads((pack / "manifest.json").read_text())["files"]]
    return {n: (pack / n).read_bytes() for n in (*names, "manifest.json")}


def on_hub(remote: WriteHub, branch: str = "main") -> dict[str, bytes]:
    return {n: d for n, d in remote.files(branch).items() if n not in BESIDE}


def send(pack: Path, **options) -> bonsai_quant.publish.Published:
    return publish(pack, REPO, **OPTIONS | options)
