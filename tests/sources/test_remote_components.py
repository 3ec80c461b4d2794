"""Whole pipelines on the Hub: their parts are planned from headers, fetched, and held to hashes."""

from __future__ import annotations

import hashlib
import json
import logging

import pytest
from huggingface_hub import constants

from bonsai_quant import convert, plan, verify
from bonsai_quant.core.errors import BadInput, HubMismatch
from tests.conversion.test_convert import hashes
from tests.sources.conftest import NAME

OPTIONS = {"mode": "ternary", "formats": "mlx", "threads": 2}
ENCODER = "text_encoder/model.safetensors"


@pytest.fixture(scope="module")
def files(standin) -> dict[str, bytes]:
    """The stand-in as a repo, with papers."""
    found = (p for p in standin.rglob("*") if p.is_file())
    papers = {"README.md": b"---\nlicense: apache-2.0\n---\n", "LICENSE.md": b"you may"}
    papers |= {"picture.png": b"png", "tokenizer/.env": b"secret"}
    return {str(p.relative_to(standin)): p.read_bytes() for p in found} | papers


@pytest.fixture(scope="module")
def local(standin, tmp_path_factory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("local") / "out"
    convert(str(standin), out=out, **OPTIONS)
    return hashes(out, manifests=False)


def test_a_plan_reads_headers_only(remote, files, standin, cache):  # noqa: F811
    remote.commit(files)
    ours, theirs = plan(NAME, **OPTIONS), plan(str(standin), **OPTIONS)
    sizes = {(f.path, f.size) for f in ours.files}
    assert sizes - {("LICENSE.md", 7)} == {(f.path, f.size) for f in theirs.files}
    assert remote.body_bytes < 0.1 * sum(map(len, files.values()))
    assert not cache.exists()


def test_a_conversion_brings_what_a_folder_does(remote, files, local, cache, tmp_path):  # noqa: F811
    sha = remote.commit(files)
    convert(NAME, out=tmp_path / "out", **OPTIONS)
    made = hashes(tmp_path / "out", manifests=False)
    assert made.pop("mlx/LICENSE.md") == hashlib.sha256(b"you may").hexdigest()
    assert made == local
    source = json.loads((tmp_path / "out/mlx/manifest.json").read_text())["source"]
    assert (source["id"], source["revision"]) == (NAME, sha)
    digests = {p["name"]: p["sha256"] for p in source["parts"]}
    assert digests[ENCODER] == hashlib.sha256(files[ENCODER]).hexdigest()
    asked = " ".join(remote.requests)
    assert "picture.png" not in asked
    assert ".env" not in asked
    (snapshot,) = cache.glob("*/snapshots/*")
    assert (snapshot / "README.md").is_file()  # a card may cite the licence that it names
    assert not verify(tmp_path / "out", against=NAME).failed


@pytest.mark.parametrize("options", [{"transformer_only": True}, {"formats": "bonsai"}])
def test_parts_that_are_not_wanted_are_not_fetched(remote, files, tmp_path, options):  # noqa: F811
    remote.commit(files)
    convert(NAME, out=tmp_path / "out", **OPTIONS | options)
    asked = " ".join(remote.requests)
    assert "text_encoder" not in asked
    assert "vae" not in asked


@pytest.mark.parametrize("path", [ENCODER, "tokenizer/tokenizer.json", "vae/config.json"])
def test_another_body_than_announced(remote, files, tmp_path, path):  # noqa: F811
    remote.commit(files)
    body = bytearray(files[path])
    body[-3] ^= 1
    remote.lies[path] = bytes(body)
    with pytest.raises((HubMismatch, BadInput)) as e:
        convert(NAME, out=tmp_path / "out", **OPTIONS)
    assert isinstance(e.value, HubMismatch), e.value
    assert not (tmp_path / "out").exists()
    remote.lies.clear()
    convert(NAME, out=tmp_path / "out", **OPTIONS)  # the bad file is not used again


def test_offline_with_a_warm_cache(remote, files, local, tmp_path, monkeypatch):  # noqa: F811
    remote.commit(files)
    convert(NAME, out=tmp_path / "a", **OPTIONS)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    convert(NAME, out=tmp_path / "b", **OPTIONS)
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")


def test_offline_with_the_transformer_alone(remote, files, tmp_path, monkeypatch, caplog):  # noqa: F811
    remote.commit(files)
    convert(NAME, out=tmp_path / "a", transformer_only=True, **OPTIONS)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with caplog.at_level(logging.WARNING):
        convert(NAME, out=tmp_path / "b", **OPTIONS)
    assert "its other parts are not in the cache" in caplog.text


def test_a_repo_without_some_of_its_parts(remote, files, tmp_path):  # noqa: F811
    remote.commit({n: d for n, d in files.items() if not n.startswith("vae/")})
    with pytest.raises(BadInput, match="vae: is missing.*--transformer-only"):
        convert(NAME, out=tmp_path / "out", **OPTIONS)
