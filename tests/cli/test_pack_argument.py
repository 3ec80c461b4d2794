"""Commands that take a pack take its id on the Hub, against a Hub on this machine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

from bonsai_quant import convert
from bonsai_quant.cli.pack_argument import local_pack
from tests.support import fake_runner
from tests.support.fakehub import FOREVER, FakeHub, status, use

REPO = "me/model"


@pytest.fixture(scope="module")
def pack(tiny, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("made") / "out"
    convert(str(tiny), mode="binary", formats="bonsai", out=out)
    return out / "bonsai"


@pytest.fixture
def remote(pack, cache, monkeypatch, tmp_path):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with FakeHub(REPO) as server:
        use(server.url, monkeypatch)
        server.commit(pack)
        yield server


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def moved(pack: Path) -> dict[str, bytes]:
    return contents(pack) | {"README.md": b"of a later commit"}


def test_a_pack_is_pulled_once_for_all_commands(pack, remote, run, caplog):
    first = run("inspect", REPO, "--json")
    assert first.code == 0, first.err
    (found,) = json.loads(first.out)["found"]
    folder = Path(found["path"])
    assert contents(folder) == contents(pack)
    assert (folder.name, folder.parent.name) == ("model", remote.branches["main"])
    assert f"{REPO} is commit {remote.branches['main'][:12]}, now in {folder}" in first.err
    assert list(Path().iterdir()) == []
    asked = len(remote.requests)
    again = run("verify", REPO, "--level", "file", "--json")
    assert again.code == 0, again.err
    assert again.err == ""
    assert len(remote.requests) == asked + 1  # which commit it is now
    assert run("report", REPO, "--level", "file", "-o", "page").code == 0


def test_generate_and_score_get_the_folder(remote, run, monkeypatch, tmp_path):
    runner = fake_runner.install(monkeypatch, tmp_path / "pipeline")
    (tmp_path / "pipeline/benchmark.json").unlink()
    places = []
    monkeypatch.setattr(
        "bonsai_quant.cli.commands.pictures.warn_of_words", lambda place, *_: places.append(place)
    )
    done = run("generate", REPO, "-p", "x", "-o", "a.png", "--size", "64")
    assert (done.code, runner.decoded) == (0, 1), done.err
    monkeypatch.setattr(
        "bonsai_quant.cli.commands.pictures.run_score", lambda place, **_: places.append(place)
    )
    run("score", REPO)
    assert places == [local_pack(REPO)] * 2
    assert Path(places[0]).is_dir()


def test_a_commit_is_pinned(pack, remote):
    before = local_pack(REPO)
    sha = remote.branches["main"]
    remote.commit(moved(pack))
    after = local_pack(REPO)
    assert (Path(before) / "README.md").read_bytes() != b"of a later commit"
    assert (Path(after) / "README.md").read_bytes() == b"of a later commit"
    asked = len(remote.requests)
    assert local_pack(f"{REPO}@{sha}") == before
    assert len(remote.requests) == asked


def test_what_was_pulled_is_found_when_the_hub_is_not(pack, remote, monkeypatch, caplog):
    remote.commit(moved(pack), branch="v2/rc")
    folders = {place: local_pack(place) for place in (REPO, f"{REPO}@v2/rc")}
    assert len(set(folders.values())) == 2
    remote.fault("api/models", status(503), times=FOREVER)
    for place, folder in folders.items():
        assert local_pack(place) == folder
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for place, folder in folders.items():
        assert local_pack(place) == folder
    assert "the Hub was not asked; commit" in caplog.text


def test_nothing_is_guessed_when_offline(remote, run, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    done = run("inspect", REPO)
    assert (done.code, "was not pulled yet, and HF_HUB_OFFLINE is set" in done.err) == (10, True)
    assert "check the path" in done.err


def test_a_repo_without_a_manifest_is_not_fetched(remote, run, cache):
    remote.commit({"model.safetensors": b"x" * 99, "config.json": b"{}"})
    done = run("verify", REPO)
    assert done.code == 3
    assert (
        f"is no pack of this program -> fetch all of it with `bonsai-quant pull {REPO}`" in done.err
    )
    assert not [p for p in cache.parent.rglob("*.safetensors")]


def test_a_repo_that_is_not_there(remote, run):
    done = run("inspect", "me/nothing")
    assert done.code in (8, 9)
    assert "there is no such folder here" in done.err


def test_paths_come_first(remote, pack):
    shutil.copytree(pack, "me/model")
    assert local_pack(REPO) == REPO
    shutil.rmtree("me/model")
    assert local_pack(REPO) == REPO  # `me` is a folder here: it is a path with a slip in it
    for place in ("mini-klein-ternary", "./me/model", "/me/model", "a/b/c", ""):
        assert local_pack(place) == place
    assert remote.requests == []
