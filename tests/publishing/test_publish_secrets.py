"""Nothing but a whole pack leaves the machine, and no token."""

from __future__ import annotations

import json

import pytest

from bonsai_quant.core.errors import BadInput, HubDenied, UsageError, VerificationFailed
from tests.support.fakehub import TOKEN, use

from .conftest import REPO, WEIGHTS, listed, send


def test_without_a_token_nothing_is_asked(pack, cache, monkeypatch, no_network):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubDenied, match="no token"):
        send(pack)


def test_a_token_is_not_sent_in_clear(pack, cache, monkeypatch, no_network):
    use("http://hub.example", monkeypatch)
    with pytest.raises(UsageError, match="not reached by https"):
        send(pack)


PLANTED = {
    ".env": f"HF_TOKEN={TOKEN}", "id_rsa": "-----BEGIN OPENSSH PRIVATE KEY-----\n",
    "server.pem": "-----BEGIN PRIVATE KEY-----\n", "try.ipynb": '{"cells": []}',
    ".cache/huggingface/token": TOKEN, "README.md~": "draft", ".config.json.swp": "x",
    ".git/config": "[core]", "notes/todo.txt": "buy milk",
}  # fmt: skip


def test_nothing_but_the_pack_leaves_the_machine(pack, remote, run):
    for name, text in PLANTED.items():
        (pack / name).parent.mkdir(parents=True, exist_ok=True)
        (pack / name).write_text(text)
    (pack / "hosts").symlink_to("/etc/hostname")
    (pack / "folder").symlink_to("/etc", target_is_directory=True)
    result = run("publish", pack, REPO, "--license", "mit", "--json")
    assert result.code == 0, result.err
    assert set(remote.files()) == {*listed(pack), "README.md"}
    assert set(json.loads(result.out)["left_out"]) == {*PLANTED, "hosts", "folder"}
    everything = b"".join(remote.store.values()) + b"".join(remote.files().values())
    for text in (TOKEN, "PRIVATE KEY", "buy milk"):
        assert text.encode() not in everything
    assert TOKEN not in result.out + result.err
    assert all(t in (None, f"Bearer {TOKEN}") for t in remote.tokens)


def test_a_link_in_the_place_of_a_file(pack, remote, tmp_path):
    (pack / WEIGHTS).rename(tmp_path / "elsewhere")
    (pack / WEIGHTS).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(VerificationFailed, match="not a regular file"):
        send(pack)
    assert remote.requests == []


@pytest.mark.parametrize(
    "text",
    [TOKEN + "x" * 20, "AKIA" + "A" * 16, "-----BEGIN RSA PRIVATE KEY-----", "ghp_" + "a" * 36],
)  # fmt: skip
def test_secrets_in_what_would_be_sent(pack, remote, text):
    """config.json is listed, and its hash made to fit."""
    import hashlib

    config, manifest = pack / "config.json", json.loads((pack / "manifest.json").read_text())
    data = json.dumps(json.loads(config.read_text()) | {"note": text}).encode()
    config.write_bytes(data)
    for f in manifest["files"]:
        if f["path"] == "config.json":
            f |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (pack / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BadInput, match=r"config.json: holds what looks like") as caught:
        send(pack)
    assert text not in str(caught.value)
    assert remote.requests == []


def test_a_damaged_pack_is_not_published(pack, remote):
    data = bytearray((pack / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (pack / WEIGHTS).write_bytes(data)
    with pytest.raises(VerificationFailed, match="sha256"):
        send(pack)
    assert remote.requests == []
