"""Group D: names on the Hub that cannot be meant, and a token that stays secret."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from .conftest import MODE

MALFORMED_IDS = (
    "../x", "../../x", "./a/b", "/a/b", "a/b/c", "https://huggingface.co/a/b", "hf://a/b", "a/b ",
    " a/b", "a /b", "a/", "/a", "a//b", "a/..", "a/.", "a/-b", "a/b.", "a/b--c", "a/b..c",
    "a/b\n", "a/b\x1b[31m", "a/" + "b" * 100, "a/b@", "a/b@../x", "a/b@x y", "a/b@main@x", "a\\b",
    "a:b/c", "a/b?x=1", "a/b#x", "~/b", "name", "a/b.git", "a/b.safetensors", "\u00e4/b",
)  # fmt: skip


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Any use of the network fails the test."""
    used = []

    def connect(*arguments: Any) -> None:
        used.append(arguments)
        raise OSError("no network in tests")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    yield used
    assert used == []


@pytest.mark.parametrize("name", MALFORMED_IDS)
def test_d71_malformed_ids_are_refused_before_any_request(name, refuse, offline):
    refuse(2, name, within=5)


REVISIONS = ("../x", "a/../b", "x y", "main ", "a\nb", "/x", "x/", "a//b")


@pytest.mark.parametrize("revision", REVISIONS)
def test_d71_malformed_revisions(revision, refuse, offline):
    refuse(2, "org/name", options=(*MODE, "--revision", revision), within=5)


def test_d71_two_revisions(refuse, offline):
    refuse(2, "org/name@v1", "'v1'", "'v2'", options=(*MODE, "--revision", "v2"))


SECRET = "hf_ThisIsASecretThatNobodyMaySee"


@pytest.mark.parametrize("options", [(), ("--verbose",), ("--json",), ("--debug",)], ids=str)
@pytest.mark.parametrize("kind", ["good", "broken", "usage", "hub"])
def test_d70_a_token_is_never_shown(kind, options, source, run, tmp_path, monkeypatch, offline):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_TOKEN"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    place = {"hub": "org/name", "usage": "no such place"}.get(kind, source)
    if kind == "broken":
        source.write_bytes(b"x")
    result = run("convert", place, *MODE, *options, "-o", tmp_path / "out")
    assert result.code == {"good": 0, "broken": 3, "usage": 2, "hub": 10}[kind]
    assert "secret" not in (result.out + result.err).lower()
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes()
