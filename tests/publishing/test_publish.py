"""Packs to the Hub and back, against a Hub on this machine that takes uploads."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, constants

import bonsai_quant
from bonsai_quant import convert, publish, pull
from bonsai_quant.core.errors import (
    BadInput,
    HubConflict,
    HubDenied,
    HubMismatch,
    HubUnavailable,
    UsageError,
    VerificationFailed,
)
from tests.faults.harness import in_child
from tests.support.fakehub import FOREVER, TOKEN, drop, page, stall, status, use
from tests.support.writehub import WriteHub, lost

REPO = "me/model"
WEIGHTS = "model.safetensors"
BESIDE = {"README.md", "gallery.png"}
OPTIONS = {"license": "apache-2.0"}


@pytest.fixture(scope="module")
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


def contents(folder: Path) -> dict[str, bytes]:
    files = (p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def listed(pack: Path) -> dict[str, bytes]:
    """What is to be on the Hub, but for the card, which is written anew."""
    names = [f["path"] for f in json.loads((pack / "manifest.json").read_text())["files"]]
    return {n: (pack / n).read_bytes() for n in (*names, "manifest.json")}


def on_hub(remote: WriteHub, branch: str = "main") -> dict[str, bytes]:
    return {n: d for n, d in remote.files(branch).items() if n not in BESIDE}


def send(pack: Path, **options) -> bonsai_quant.publish.Published:
    return publish(pack, REPO, **OPTIONS | options)


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
    assert (tmp_path / "here.png").read_bytes() == (tmp_path / "there.png").read_bytes()
    assert remote.private and len(remote.made) == 1
    assert remote.files()["gallery.png"] == (report / "gallery.png").read_bytes()
    card = remote.files()["README.md"].decode()
    assert "dB to the source's" in card and "was not measured" not in card
    assert "Of 6 pictures painted for 6 captions" in card
    assert "of the same conversion" not in card


@pytest.fixture(scope="module")
def counted(original):
    """The requests of one publication, by way of a run that nothing disturbs."""
    with pytest.MonkeyPatch.context() as patch, WriteHub(REPO) as hub:
        use(hub.url, patch)
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setenv("HF_TOKEN", TOKEN)
        assert in_child(lambda: send(original) and None).status == 0
        return list(hub.requests)


@pytest.mark.heavy
@pytest.mark.parametrize("create_pr", [False, True])
def test_killed_at_every_request_and_run_again(pack, cache, counted, monkeypatch, create_pr):
    """SIGKILL as each request arrives, and as each is answered; then the same command again."""
    whole = listed(pack)
    for moment in ("before", "after"):
        for k in range(len(counted) + 4 * create_pr):
            with WriteHub(REPO) as hub:
                if create_pr:
                    hub.create()
                use(hub.url, monkeypatch)
                dead = killed_at(hub, k, moment, lambda: send(pack, create_pr=create_pr) and None)
                branches = ["main", "refs/pr/1"] if create_pr else ["main"]
                for branch in branches:  # nothing that looks complete and is not
                    seen = on_hub(hub, branch) if branch in hub.branches else {}
                    assert seen in ({}, whole)
                setattr(hub, moment, lambda request: None)
                assert in_child(lambda: send(pack, create_pr=create_pr) and None).status == 0
                assert len(hub.made) == 1, (moment, k)
                assert on_hub(hub, branches[-1]) == whole
                assert len(hub.requests_open) == create_pr
                size = len(whole[WEIGHTS])
                assert hub.sent <= 2 * size, "large files go again only when they did not arrive"
                if not dead:
                    break


def killed_at(hub: WriteHub, k: int, moment: str, work) -> bool:
    """Kill a child at the k-th request; -> whether it had so many."""
    reading, writing = os.pipe()

    def child() -> None:
        os.write(writing, str(os.getpid()).encode())
        work()

    count = iter(range(10**6))

    def kill(request: str) -> None:
        if next(count) == k:
            os.kill(int(os.read(reading, 20)), signal.SIGKILL)

    setattr(hub, moment, kill)
    code = in_child(child).status
    os.close(reading), os.close(writing)
    assert code in (0, -signal.SIGKILL)
    return code != 0


def test_a_second_run_sends_nothing(pack, remote):
    first = send(pack)
    remote.clear()
    again = send(pack)
    assert (again.commit, again.made) == (first.commit, False)
    assert not [r for r in remote.requests if not r.startswith("GET ")]


@pytest.mark.parametrize(
    ("pattern", "faults", "error", "text"),
    [
        ("POST .*/create", [status(403, "no right")], HubDenied, "no right"),
        ("POST .*/preupload", [status(403, "read only")], HubDenied, "read only"),
        ("POST .*/commit/", [status(401)], HubDenied, "401"),
        ("POST .*/commit/", [status(412)], HubConflict, "changed while"),
        ("POST .*/commit/", [status(404, X_Error_Code="RepoNotFound")], HubConflict, "404|not on"),
        ("POST .*/create", [status(429, Retry_After="3600")], HubUnavailable, "wait 3600 s"),
        ("POST .*/commit/", [status(503)] * 9, HubUnavailable, "503"),
        ("POST .*/batch", [page] * 9, HubUnavailable, "not a Hub"),
        ("GET .*/whoami", [page] * 3, HubUnavailable, "not a Hub"),
        ("PUT .*", [status(403)] * 99, HubUnavailable, "store answered 403"),
        ("POST .*/verify", [status(422)], HubMismatch, "other bytes"),
    ],
)
def test_what_the_hub_refuses(pack, remote, pattern, faults, error, text):
    remote.fault(pattern, *faults)
    with pytest.raises(error, match=text) as caught:
        send(pack)
    assert TOKEN not in str(caught.value)
    assert remote.made == []


@pytest.mark.parametrize(
    ("pattern", "fault"),
    [
        ("GET .*/whoami", status(503)),
        ("POST .*/create", drop),
        ("POST .*/create", lost),
        ("POST .*/preupload", status(500)),
        ("POST .*/batch", status(502)),
        ("PUT .*", status(500)),
        ("PUT .*", status(403)),
        ("POST .*/verify", drop),
        ("POST .*/commit/", status(504)),
        ("POST .*/commit/", status(429, Retry_After="1")),
        ("POST .*/commit/", status(429, Retry_After="soon")),
        ("POST .*/commit/", drop),
        ("POST .*/commit/", lost),
        ("GET .*/revision/", status(503)),
    ],
)
def test_what_passes_by_itself(pack, remote, pattern, fault):
    remote.fault(pattern, fault)
    send(pack)
    assert len(remote.made) == 1
    assert on_hub(remote) == listed(pack)


def test_a_lost_answer_makes_no_second_request(pack, remote):
    remote.create()
    remote.fault("POST .*/discussions", lost)
    remote.fault("POST .*/commit/", lost)
    made = send(pack, create_pr=True)
    assert made.ref == "refs/pr/1"
    assert (len(remote.requests_open), len(remote.made)) == (1, 1)
    assert on_hub(remote) == {} and on_hub(remote, made.ref) == listed(pack)


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


def test_a_hub_that_never_answers(pack, remote, monkeypatch):
    monkeypatch.setattr(constants, "DEFAULT_REQUEST_TIMEOUT", 0.3)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    remote.fault("GET .*/models/", stall, times=FOREVER)
    before = time.monotonic()
    with pytest.raises(HubUnavailable):
        send(pack)
    assert time.monotonic() - before < 10


@pytest.mark.parametrize("kind", ["closed", "no TLS"])
def test_no_hub_at_all(pack, remote, monkeypatch, kind):
    address = remote.url.removeprefix("http://")
    use({"closed": "http://127.0.0.1:1", "no TLS": f"https://{address}"}[kind], monkeypatch)
    with pytest.raises(HubUnavailable, match="could not be reached"):
        send(pack)


def test_an_upload_in_parts_of_which_one_fails(pack, remote):
    remote.chunk = 1000
    remote.fault("PUT .*/3$", status(403))
    send(pack)
    assert on_hub(remote) == listed(pack)


def test_a_quota_is_passed_on_escaped(pack, remote, run):
    error = {"code": 403, "message": f"quota of {TOKEN} \x1b[31mexceeded"}

    def refuse(handler):
        asked = json.loads(handler.payload)["objects"]
        handler.say({"objects": [o | {"error": error} for o in asked]})

    remote.fault("POST .*/batch", refuse)
    result = run("publish", pack, REPO, "--license", "mit")
    assert result.code == 8
    assert "exceeded" in result.err and TOKEN not in result.err and "\x1b" not in result.err


def test_the_first_401_ends_it(pack, remote):
    remote.fault("GET .*/whoami", status(401))
    with pytest.raises(HubDenied, match="invalid or expired"):
        send(pack)
    assert [r for r in remote.requests if "harness" not in r] == ["GET /api/whoami-v2"]


def test_without_a_token_nothing_is_asked(pack, cache, monkeypatch, no_network):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubDenied, match="no token"):
        send(pack)


def test_a_token_is_not_sent_in_clear(pack, cache, monkeypatch, no_network):
    use("http://hub.example", monkeypatch)
    with pytest.raises(UsageError, match="not reached by https"):
        send(pack)


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


def test_a_hub_that_stores_other_bytes(pack, remote):
    remote.corrupt = WEIGHTS
    with pytest.raises(HubMismatch, match=rf"{WEIGHTS}: has another hash.*delete the repo"):
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


def test_the_card(packs, tmp_path):
    """The YAML is what the Hub's own library reads, and every figure is the manifest's."""
    folder = packs.out / "mlx"
    card = ModelCard.load(folder / "README.md")
    said, manifest = card.data.to_dict(), packs.made.manifests["mlx"]
    assert said["library_name"] == "mlx" and said["pipeline_tag"] == "text-to-image"
    assert packs.mode in said["tags"] and said["inference"] is False
    assert "license" not in said and "Not known" in card.text
    assert "pictures was not measured" in card.text
    for f in manifest.files:
        assert f"`{f.path}` | {f.size:,} | `{f.sha256}`" in card.text
    assert f"{manifest.counts.packed_weights:,}" in card.text
    assert f"{manifest.measured.relative_error:.4f}" in card.text
    assert f"--mode {packs.mode} --solver exact" in card.text


@pytest.mark.parametrize(
    ("front", "license"),
    [
        ("license: apache-2.0", {"license": "apache-2.0"}),
        ("license: other\nlicense_name: flux-non-commercial\nlicense_link: https://x.example/l",
         {"license": "other", "license_name": "flux-non-commercial",
          "license_link": "https://x.example/l"}),
        ("tags: [a]", {}), ("license: [a, b]", {}), ("license: '<b>'", {}), ("{: broken", {}),
    ],
)  # fmt: skip
def test_the_license_is_the_source_s_own(tiny, tmp_path, front, license):
    source = tmp_path / "model"
    shutil.copytree(tiny, source / "transformer")
    (source / "README.md").write_text(f"---\n{front}\n---\n# Model\n")
    convert(str(source), mode="binary", formats="bonsai", out=tmp_path / "out")
    text = (tmp_path / "out" / "bonsai" / "README.md").read_text()
    said = yaml.safe_load(text.split("---\n")[1])
    assert {k: v for k, v in said.items() if k.startswith("license")} == license


def test_a_report_of_another_pack(tiny, pack, tmp_path):
    convert(str(tiny), mode="ternary", formats="bonsai", out=tmp_path / "other")
    bonsai_quant.report(tmp_path / "other", out=tmp_path / "report")
    with pytest.raises(BadInput, match="other packs"):
        send(pack, report=tmp_path / "report")
    with pytest.raises(BadInput, match=r"no report.json"):
        send(pack, report=tmp_path)


def test_a_card_says_which_format_painted(standin, standin_packs, tmp_path):
    bonsai_quant.report(standin_packs, against=str(standin), out=tmp_path / "report")
    options = OPTIONS | {"report": tmp_path / "report"}
    cards = {
        f: bonsai_quant.plan_publication(standin_packs / f, REPO, **options).card
        for f in ("bonsai", "mlx")
    }
    assert "painted by the `bonsai` pack of the same conversion" in cards["mlx"]
    assert "of the same conversion" not in cards["bonsai"]


def test_a_report_s_checks_are_on_the_card(pack, tmp_path):
    bonsai_quant.report(pack, out=tmp_path / "report")
    what = bonsai_quant.plan_publication(pack, REPO, report=tmp_path / "report", **OPTIONS)
    assert "| codes | pack | passed |" in what.card and "was not measured" in what.card
