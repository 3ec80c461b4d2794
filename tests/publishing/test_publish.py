"""Packs to the Hub and back, against a Hub on this machine that takes uploads."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image

import bonsai_quant
from bonsai_quant import convert, pull
from bonsai_quant.core.errors import HubConflict
from tests.support.fakehub import TOKEN

from .conftest import REPO, WEIGHTS, listed, on_hub, send


def contents(folder: Path) -> dict[str, bytes]:
    files = (p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def test_what_comes_back_is_what_was_sent(pack, remote, tmp_path):
    before = contents(pack)
    made = send(pack)
    assert contents(pack) == before
    assert made.made and len(remote.made) == 1
    assert on_hub(remote) == listed(pack)
    assert set(remote.files()) == {*listed(pack), "README.md"}
    got = pull(REPO, out=tmp_path / "back")
    assert got.commit == made.commit
    assert contents(tmp_path / "back") == remote.files()
    assert not bonsai_quant.verify(tmp_path / "back").failed


def test_the_whole_loop_through_the_command_line(shipped, remote, run, tmp_path):
    """convert, report, publish, pull, verify, generate: the same bytes, the same picture."""
    packs, report, back = tmp_path / "packs", tmp_path / "report", tmp_path / "back"
    (shipped / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    scored = tmp_path / "score.json"
    paint = ("-p", "a red circle", "--steps", 1, "--pipeline", shipped, "--backend", "torch")
    for command in (
        ("convert", "mini-klein", "--mode", "ternary", "--format", "bonsai", "-o", packs),
        ("report", packs, "--against", "mini-klein", "-o", report),
        ("score", packs, "--against", "mini-klein", "--prompts", 1, "--images", 1, "--json"),
        ("publish", packs / "bonsai", REPO, "--report", report, "--score", scored, "--private"),
        ("pull", REPO, "-o", back),
        ("verify", back, "--against", "mini-klein"),
        ("generate", packs, *paint, "-o", tmp_path / "here.png"),
        ("generate", back, *paint, "-o", tmp_path / "there.png"),
    ):
        result = run(*command)
        assert result.code == 0, result.err
        assert TOKEN not in result.out + result.err
        if command[0] == "score":
            scored.write_text(result.out)
    assert listed(packs / "bonsai") == listed(back)
    here, there = (Image.open(tmp_path / f"{name}.png") for name in ("here", "there"))
    assert here.tobytes() == there.tobytes()  # each file also has the name of its pack
    assert remote.private and len(remote.made) == 1
    shown, painted = (Image.open(io.BytesIO(data)) for data in (
        remote.files()["gallery.png"], (report / "gallery.png").read_bytes()))  # fmt: skip
    assert shown.width % painted.width == 0 and shown.height > painted.height  # names above
    card = remote.files()["README.md"].decode()
    assert "dB to the source's" in card and "was not measured" not in card
    assert "Of 6 pictures painted for 6 captions" in card
    assert "of the same conversion" not in card


def test_a_second_run_sends_nothing(pack, remote):
    first = send(pack)
    remote.clear()
    again = send(pack)
    assert (again.commit, again.made) == (first.commit, False)
    assert not [r for r in remote.requests if not r.startswith("GET ")]


def test_a_pull_request_takes_old_files_out_too(pack, remote):
    """Even when main lacks nothing of the new version."""
    send(pack)
    manifest = json.loads((pack / "manifest.json").read_text())
    old = manifest["files"] + [
        {**manifest["files"][0], "path": "old.txt", "remote_path": "old.txt"}
    ]
    before = remote.files() | {"old.txt": b"old"}
    remote.create(before | {"manifest.json": json.dumps(manifest | {"files": old}).encode()})
    made = send(pack, create_pr=True)
    assert (made.made, made.ref) == (True, "refs/pr/1")
    assert "old.txt" in on_hub(remote) and on_hub(remote, made.ref) == listed(pack)


def test_no_pull_request_for_what_is_there(pack, remote):
    send(pack)
    assert not send(pack, create_pr=True).made
    assert remote.requests_open == []


@pytest.mark.parametrize("private", [False, True])
def test_another_visibility_than_asked_for(pack, remote, private):
    remote.create(private=not private)
    with pytest.raises(HubConflict, match="exists already and is"):
        send(pack, private=private)
    assert remote.made == [] and remote.sent == 0 and remote.private is not private


def test_files_of_others(pack, remote):
    remote.create({"README.md": b"mine", "weights.bin": b"x"})
    with pytest.raises(HubConflict, match=r"README.md, weights.bin"):
        send(pack)
    assert remote.made == [] and remote.sent == 0
    send(pack, into_existing=True)
    assert remote.files()["weights.bin"] == b"x"
    assert on_hub(remote) == listed(pack) | {"weights.bin": b"x"}


def test_a_repo_that_was_renamed(pack, remote):
    remote.create()
    answer = json.dumps({"id": "me/other", "sha": "0" * 40, "private": False, "siblings": []})
    remote.fault("GET /api/models/me/model", lambda h: h.answer(200, answer.encode(), {}))
    with pytest.raises(HubConflict, match="now called me/other"):
        send(pack)


def test_an_unknown_branch(pack, remote):
    remote.create()
    with pytest.raises(HubConflict, match="no such revision"):
        send(pack, revision="nowhere")


def test_a_branch(pack, remote):
    remote.create()
    remote.branches["v2"] = remote.branches["main"]
    send(pack, revision="v2")
    assert on_hub(remote, "v2") == listed(pack) and on_hub(remote) == {}


def test_a_new_version_takes_the_place_of_the_old(tiny, pack, remote, tmp_path):
    """What an earlier publication brought and this one does not have is removed."""
    send(pack)
    convert(str(tiny), mode="binary", formats="mlx", out=tmp_path / "new")
    send(tmp_path / "new" / "mlx", incomplete=True)
    assert on_hub(remote) == listed(tmp_path / "new" / "mlx")
    assert len(remote.made) == 2


def test_a_dry_run_asks_nobody(pack, no_network, run):
    result = run("publish", pack, REPO, "--license", "mit", "-n")
    assert result.code == 0
    assert WEIGHTS in result.out and "license: mit" in result.out


def test_what_cannot_be_published(pack, packs, run):
    assert run("publish", packs.out, REPO).code == 2  # four packs, one repo
    assert "choose from" in run("publish", packs.out, REPO).err
    assert "names no license" in run("publish", pack, REPO).err
    assert "no license id" in run("publish", pack, REPO, "--license", "My License").err
    assert "no repo of the Hub" in run("publish", pack, "model").err
    assert "no text_encoder" in run("publish", packs.out / "mlx", REPO).err
    assert run("publish", pack, REPO, "--create-pr", "--revision", "x").code == 2
