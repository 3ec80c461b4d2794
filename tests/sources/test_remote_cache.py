"""Downloads in the cache: corrupt ones are found, whole ones are used again, also offline."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants

from bonsai_quant import convert, hub
from bonsai_quant.core.errors import EnvironmentFault, HubMismatch, HubUnavailable
from bonsai_quant.hub import cache as hub_cache
from bonsai_quant.sources import remote as remote_source
from bonsai_quant.sources.open import open_source
from tests.support import models
from tests.support.fakehub import FOREVER, drop

from .conftest import NAME, OPTIONS, WEIGHTS, packed, source_of


def broken(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize("at", [-1, 3, 40], ids=["data", "length", "header"])
def test_a_corrupt_body_of_the_same_size(remote, files, tmp_path, at):
    """The plan is made from good headers; what is downloaded then differs by one bit."""
    path = f"transformer/{WEIGHTS}"
    remote.commit(files)
    bad = {path: broken(files[path], at % len(files[path]))}
    remote.after = lambda request: request.startswith("HEAD") and remote.lies.update(bad)
    with pytest.raises(HubMismatch, match="sha256"):
        convert(NAME, out=tmp_path / "out", **OPTIONS)
    assert not (tmp_path / "out").exists()
    remote.after = lambda request: None
    remote.lies.clear()
    convert(NAME, out=tmp_path / "out", **OPTIONS)  # the bad file is not used again


@pytest.mark.parametrize("name", ["config.json", WEIGHTS])
def test_a_corrupt_file_in_the_cache(remote, files, tmp_path, name):
    remote.commit(files)
    source = remote_source.download(open_source(NAME))
    path = source.files[0].path.with_name(name)
    path.write_bytes(broken(path.read_bytes(), len(path.read_bytes()) - 2))
    with pytest.raises(HubMismatch) as stop:
        convert(NAME, out=tmp_path / "out", **OPTIONS)
    assert name in str(stop.value)
    assert not path.exists()


def test_a_truncated_file_in_the_cache(remote, files, tmp_path):
    remote.commit(files)
    path = remote_source.download(open_source(NAME)).files[0].path
    os.truncate(path, 5000)
    with pytest.raises(HubMismatch, match="is 5000 bytes"):
        open_source(NAME)


def test_a_body_of_another_size(remote, files, tmp_path, monkeypatch):
    remote.commit(files)
    source = open_source(NAME)
    remote.lies[f"transformer/{WEIGHTS}"] = files[f"transformer/{WEIGHTS}"][:-10]
    with pytest.raises(HubMismatch, match="another size"):
        remote_source.download(source)


def test_other_weights_than_the_headers_that_were_planned(remote, files):
    remote.commit(files)
    source = open_source(NAME)
    other = {"config": source.config | {"eps": 1}}
    with pytest.raises(HubMismatch, match="not those whose headers"):
        remote_source.download(
            SimpleNamespace(**{k: getattr(source, k) for k in source.__slots__} | other)
        )


def test_discard_stays_inside_of_the_cache(cache, tmp_path):
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes(b"precious")
    link = cache / "models--org--klein" / "snapshots" / "x" / "f.safetensors"
    link.parent.mkdir(parents=True)
    link.symlink_to(mine)
    hub.discard(link)
    assert mine.exists()
    assert not link.is_symlink()
    hub.discard(mine)
    assert mine.exists()


def test_offline_with_a_warm_cache(remote, files, local, tmp_path, monkeypatch):
    sha = remote.commit(files)
    remote_source.download(open_source(NAME))
    remote.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for k, place in enumerate((NAME, f"{NAME}@main", f"{NAME}@{sha}")):
        convert(place, out=tmp_path / f"{k}", **OPTIONS)
        assert packed(tmp_path / f"{k}") == local
        assert source_of(tmp_path / f"{k}")["revision"] == sha
    assert remote.requests == []


def test_offline_finds_corruption_too(remote, files, tmp_path, monkeypatch):
    remote.commit(files)
    path = remote_source.download(open_source(NAME)).files[0].path
    path.write_bytes(broken(path.read_bytes(), -2 % path.stat().st_size))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubMismatch):
        convert(NAME, out=tmp_path / "out", **OPTIONS)


def test_offline_with_a_cold_or_half_warm_cache(remote, tmp_path, monkeypatch):
    folder = models.save_folder(tmp_path / "in" / "transformer", models.tensors(), shards=2)
    remote.commit(folder.parent)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubUnavailable, match="HF_HUB_OFFLINE is set"):
        open_source(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    files = remote_source.download(open_source(NAME)).files
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    files[1].path.unlink()
    with pytest.raises(HubUnavailable, match=f"not complete in the cache: {files[1].name}"):
        open_source(NAME)


def test_without_network_the_cache_is_offered_not_taken(remote, files):
    sha = remote.commit(files)
    remote_source.download(open_source(NAME))
    remote.fault("GET", drop, times=FOREVER)
    with pytest.raises(HubUnavailable, match=f"HF_HUB_OFFLINE=1 to use commit {sha[:12]}"):
        open_source(NAME)


def test_what_is_cached_is_not_fetched_again(remote, files):
    remote.commit(files)
    remote_source.download(open_source(NAME))
    remote.clear()
    assert remote_source.download(open_source(NAME)).files[0].path.is_file()
    assert not any("/resolve/" in r for r in remote.requests)


def test_a_file_shared_between_repos_in_the_cache(remote, files, cache, local, tmp_path):
    """The client may keep blobs in one folder for all repos, and link to them from each."""
    remote.commit(files)
    path = remote_source.download(open_source(NAME)).files[0].path
    blob, shared = path.parent / os.readlink(path), cache / "blobs" / "ab" / ("ab" * 32)
    shared.parent.mkdir(parents=True)
    Path(os.path.realpath(blob)).rename(shared)
    blob.symlink_to(os.path.relpath(shared, os.path.realpath(blob.parent)))
    convert(NAME, out=tmp_path / "out", **OPTIONS)
    assert packed(tmp_path / "out") == local


def test_too_little_room(remote, files, monkeypatch, tmp_path):
    remote.commit(files)
    source = open_source(NAME)
    monkeypatch.setattr(hub_cache, "free_bytes", lambda folder: 1000)
    need = sum(len(files[f"transformer/{n}"]) for n in ("config.json", WEIGHTS))
    with pytest.raises(EnvironmentFault, match=f"needs {need} bytes, 1000 are free"):
        remote_source.download(source)


def test_a_cache_that_cannot_be_written(remote, files, cache):
    remote.commit(files)
    source = open_source(NAME)
    cache.parent.mkdir(parents=True)
    cache.write_text("a file in its place")
    with pytest.raises(EnvironmentFault, match="could not be stored"):
        remote_source.download(source)
