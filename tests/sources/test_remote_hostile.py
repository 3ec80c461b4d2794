"""A Hub that lies about names, sizes, commits or bytes."""

from __future__ import annotations

import json

import pytest

from bonsai_quant.core.errors import BadInput, HubMismatch, HubUnavailable
from bonsai_quant.sources.open import open_source
from tests.support.fakehub import FOREVER, FakeHub, body

from .conftest import NAME, WEIGHTS


def hostile(remote: FakeHub, files: dict[str, bytes], **entry: object) -> None:
    remote.commit(files)
    remote.listing = lambda siblings: [*siblings, {"size": 1, "blobId": "0" * 40} | entry]


@pytest.mark.parametrize(
    "path",
    ["../../evil", "/etc/passwd", "a//b", "transformer/../x.safetensors", "a\\..\\b", "", ".",
     "a\x1b[2Jb", "x" * 2000, 7],
)  # fmt: skip
def test_hostile_names(remote, files, path):
    hostile(remote, files, rfilename=path)
    with pytest.raises(BadInput, match="not a path inside a repo") as stop:
        open_source(NAME)
    assert "\x1b" not in str(stop.value)


@pytest.mark.parametrize("size", [10**15, -1, None, "many"])
def test_hostile_sizes(remote, files, size):
    def change(siblings: list[dict]) -> list[dict]:
        for s in siblings:
            s["size"] = size
            s.pop("lfs", None)
        return siblings

    remote.commit(files)
    remote.listing = change
    with pytest.raises(BadInput, match="the Hub says"):
        open_source(NAME)


def test_a_listing_without_end(remote, files, monkeypatch):
    remote.commit(files)
    remote.listing = lambda s: s + [{"rfilename": f"{i}.txt"} for i in range(100_001)]
    with pytest.raises(BadInput, match="more than the 100000 allowed"):
        open_source(NAME)


def test_a_hub_that_names_no_commit(remote, files):
    text = {"id": NAME, "sha": "../../x", "siblings": []}
    remote.fault("GET /api/", body(json.dumps(text).encode()))
    with pytest.raises(BadInput, match="names no commit"):
        open_source(NAME)


def test_another_commit_than_asked_for(remote, files):
    sha = remote.commit(files)
    remote.fault("GET .*config.json", body(b"{}", X_Repo_Commit="0" * 40))
    with pytest.raises(HubMismatch, match=f"came from commit 0+, not {sha}"):
        open_source(NAME)


def test_ranges_that_are_ignored(remote, files, tmp_path):
    """A server that always sends the whole file: only its beginning is read."""
    sha = remote.commit(files)
    whole = body(files[f"transformer/{WEIGHTS}"], X_Repo_Commit=sha)
    remote.fault(f"GET .*{WEIGHTS}", whole, times=2)
    assert open_source(NAME).model.base == "flux2"


def test_a_short_range(remote, files):
    sha = remote.commit(files)
    remote.fault(f"GET .*{WEIGHTS}", body(b"123", X_Repo_Commit=sha), times=FOREVER)
    with pytest.raises(HubUnavailable, match="ended after 3 of 8 bytes"):
        open_source(NAME)


@pytest.mark.parametrize("data", [b"", b"123", b"\xff" * 600, b"<html>" * 100])
def test_files_that_are_no_safetensors(remote, files, data):
    """The message names the Hub, not the temporary folder in which headers are read."""
    remote.commit(files | {f"transformer/{WEIGHTS}": data})
    with pytest.raises(BadInput) as stop:
        open_source(NAME)
    assert str(stop.value).startswith(f"{NAME}/transformer/{WEIGHTS}: ")
