"""Packs from the Hub, whole or not at all, against a Hub on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from bonsai_quant import convert, pull, verify
from bonsai_quant.core.errors import (
    BadInput,
    EnvironmentFault,
    HubConflict,
    HubDenied,
    HubMismatch,
    HubUnavailable,
    OutputExists,
    UsageError,
)
from bonsai_quant.storage import disk
from bonsai_quant.storage.disk import SLACK_BYTES
from tests.faults.harness import in_child
from tests.support.fakehub import FOREVER, TOKEN, FakeHub, body, drop, page, status, use
from tests.support.watching import Watching

REPO, WEIGHTS = "me/model", "model.safetensors"


@pytest.fixture(scope="module")
def pack(tiny, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("made") / "out"
    convert(str(tiny), mode="binary", formats="bonsai", out=out)
    return out / "bonsai"


@pytest.fixture
def remote(pack, cache, monkeypatch):
    with FakeHub(REPO) as server:
        use(server.url, monkeypatch)
        server.commit(pack)
        yield server


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_pack_comes_down_and_the_cache_is_empty_again(pack, remote, cache, tmp_path):
    made = pull(REPO, out=tmp_path / "back")
    assert contents(tmp_path / "back") == contents(pack)
    assert made.commit == remote.branches["main"]
    assert not [p for p in cache.rglob("blobs/*") if p.is_file()]
    assert set(os.listdir(tmp_path)) == {"home", "back"}


def test_progress_counts_every_byte_once(pack, remote, tmp_path):
    for name in ("back", "again"):
        watching = Watching()
        made = pull(REPO, out=tmp_path / name, progress=watching)
        assert watching.phases == [("fetching", made.size, "bytes")]
        assert watching.done == [made.size]
        assert watching.notes[-1] == f"file {made.files}/{made.files}"


def test_only_what_the_manifest_lists(pack, remote, tmp_path):
    remote.commit(contents(pack) | {".env": b"x", "evil.py": b"x", "old.safetensors": b"x"})
    pull(REPO, out=tmp_path / "back")
    assert set(contents(tmp_path / "back")) == set(contents(pack))
    assert not verify(tmp_path / "back", level="file").failed


def test_a_pack_of_another_program_comes_whole(remote, tmp_path):
    files = {"manifest.json": b'{"model_version": "x"}', "vae/config.json": b"{}", "LICENSE": b"l",
             ".gitattributes": b""}  # fmt: skip
    remote.commit(files)
    made = pull(REPO, out=tmp_path / "back")
    del files[".gitattributes"]
    assert contents(tmp_path / "back") == files and made.manifest is None


@pytest.mark.parametrize("kind", ["branch", "tag@", "sha"])
def test_a_revision(pack, remote, tmp_path, kind):
    sha = remote.commit(contents(pack) | {"README.md": b"of the branch"}, branch="v2")
    place, options = {"branch": (REPO, {"revision": "v2"}), "tag@": (f"{REPO}@v2", {}),
                      "sha": (f"{REPO}@{sha}", {})}[kind]  # fmt: skip
    assert pull(place, out=tmp_path / "back", **options).commit == sha
    assert (tmp_path / "back" / "README.md").read_bytes() == b"of the branch"


def refused(remote, error, text, out: Path, place: str = REPO) -> None:
    with pytest.raises(error, match=text) as caught:
        pull(place, out=out)
    assert TOKEN not in str(caught.value)
    assert not os.path.lexists(out) and not list(out.parent.glob(".back*"))


@pytest.mark.parametrize("name", [WEIGHTS, "config.json", "layers.csv", "README.md"])
def test_other_bytes_of_the_same_size(pack, remote, tmp_path, name):
    data = (pack / name).read_bytes()
    remote.lies[name] = bytes(len(data))
    refused(remote, HubMismatch, name, tmp_path / "back")
    del remote.lies[name]
    pull(REPO, out=tmp_path / "back")  # the bad file has left the cache
    assert contents(tmp_path / "back") == contents(pack)


@pytest.mark.parametrize(
    ("pattern", "fault", "error", "text"),
    [
        (f"GET .*{WEIGHTS}", body(b"x" * 10), HubMismatch, "another size|bytes"),
        ("GET .*manifest.json", page, HubUnavailable, "not a Hub"),
        ("GET /api/models", status(401, X_Error_Code="GatedRepo"), HubDenied, "401"),
        ("GET /api/models", status(404, X_Error_Code="RepoNotFound"), HubConflict, "not on"),
        ("GET /api/models", page, HubUnavailable, "not a Hub"),
        (f"HEAD .*{WEIGHTS}", drop, HubUnavailable, "could not be|not complete"),
        ("GET /api/models", status(429, Retry_After="3600"), HubUnavailable, "wait 3600"),
    ],
)
def test_faults_that_stay(remote, tmp_path, pattern, fault, error, text):
    remote.fault(pattern, fault, times=FOREVER)
    refused(remote, error, text, tmp_path / "back")


@pytest.mark.parametrize("fault", [status(503), drop, body(b"x" * 4000, cut=3000)])
def test_faults_that_pass(pack, remote, tmp_path, fault):
    remote.fault(f"GET .*{WEIGHTS}", fault)
    pull(REPO, out=tmp_path / "back")
    assert contents(tmp_path / "back") == contents(pack)


def test_the_branch_moves_meanwhile(pack, remote, tmp_path):
    def move(request: str) -> None:
        if "config.json" in request and remote.branches["main"] == first:
            remote.commit({n: b"moved" for n in contents(pack)})

    first, remote.after = remote.branches["main"], move
    assert pull(REPO, out=tmp_path / "back").commit == first
    assert contents(tmp_path / "back") == contents(pack)


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"rfilename": "../../evil", "size": 1}, "not a path inside"),
        ({"rfilename": "/etc/passwd", "size": 1}, "not a path inside"),
        ({"rfilename": "a\\..\\b", "size": 1}, "not a path inside"),
        ({"rfilename": "big.bin", "size": 10**15}, "bytes"),
        ({"rfilename": "odd.bin", "size": -1}, "bytes"),
    ],
)
def test_a_hostile_listing(remote, tmp_path, entry, text):
    remote.listing = lambda siblings: [*siblings, entry]
    refused(remote, BadInput, text, tmp_path / "back")


@pytest.mark.heavy
def test_a_million_entries(remote, tmp_path):
    remote.listing = lambda s: [{"rfilename": f"f{i}", "size": 1} for i in range(10**6)]
    refused(remote, BadInput, "1000000 files", tmp_path / "back")


def edited(pack: Path, change) -> dict[str, bytes]:
    files = contents(pack)
    manifest = json.loads(files["manifest.json"])
    change(manifest)
    return files | {"manifest.json": json.dumps(manifest).encode()}


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (lambda m: m["files"][0].update(sha256="0" * 64), HubMismatch, "has sha256"),
        (lambda m: m["files"][0].update(size=1), HubMismatch, "not the file that the manifest"),
        (lambda m: m["files"].pop() and m["files"][0].update(path="no", remote_path="no"),
         HubMismatch, "is not there"),
        (lambda m: m["files"][0].update(path="../x", remote_path="../x"), BadInput, "plain"),
        (lambda m: m.update(mode="quaternary"), BadInput, "mode"),
    ],
)  # fmt: skip
def test_a_manifest_that_lies(pack, remote, tmp_path, change, error, text):
    remote.commit(edited(pack, change))
    refused(remote, error, text, tmp_path / "back")


@pytest.mark.parametrize(("one_disk", "times"), [(True, 2), (False, 1)])
def test_room_for_the_cache_and_the_output(pack, remote, tmp_path, monkeypatch, one_disk, times):
    size = sum(len(d) for d in contents(pack).values())
    pulling = sys.modules["bonsai_quant.publishing.pull"]
    monkeypatch.setattr(pulling, "same_disk", lambda a, b: one_disk)
    monkeypatch.setattr(disk, "free_bytes", lambda path: times * size)
    need = f"needs {times * size + SLACK_BYTES} bytes"
    refused(remote, EnvironmentFault, need, tmp_path / "back")


def test_an_output_that_is_there(pack, remote, tmp_path):
    out = Path(shutil.copytree(pack, tmp_path / "back"))
    before = contents(out)
    with pytest.raises(OutputExists):
        pull(REPO, out=out)
    (out / "mine.txt").write_text("x")
    with pytest.raises(OutputExists, match="other files"):
        pull(REPO, out=out, overwrite=True)
    (out / "mine.txt").unlink()
    assert contents(out) == before
    remote.commit(contents(pack) | {"README.md": b"new"})
    pull(REPO, out=out, overwrite=True)
    assert (out / "README.md").read_bytes() == b"new"


@pytest.mark.heavy
def test_killed_at_every_request_and_run_again(pack, remote, tmp_path):
    out = tmp_path / "back"
    for k in range(100):
        seen = iter(range(10**6))

        def kill(request: str, k: int = k) -> None:
            if next(seen) == k:
                os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)

        def child() -> None:
            (tmp_path / "pid").write_text(str(os.getpid()))
            pull(REPO, out=out)

        remote.after = kill
        code = in_child(child).status
        remote.after = lambda request: None
        assert os.path.lexists(out) == (code == 0)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        pull(REPO, out=out)
        assert contents(out) == contents(pack)
        shutil.rmtree(out)
    assert 3 < k < 100


def test_what_is_no_repo(run, tmp_path):
    assert run("pull", "model", "-o", tmp_path / "x").code == 2
    with pytest.raises(UsageError, match="two revisions"):
        pull(f"{REPO}@a", revision="b", out=tmp_path / "x")


def test_the_command_line_says_what_came(pack, remote, tmp_path, run):
    result = run("pull", REPO, "-o", tmp_path / "back", "--json")
    said = json.loads(result.out)
    assert said["files"] == len(contents(pack)) and said["commit"] == remote.branches["main"]
    text = (tmp_path / "back" / "manifest.json").read_bytes()
    assert hashlib.sha256(text).digest() == hashlib.sha256(contents(pack)["manifest.json"]).digest()
