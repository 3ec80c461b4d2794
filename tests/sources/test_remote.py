"""Sources on the Hub, against a Hub on this machine."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants

import bonsai_quant
from bonsai_quant import convert, hub, plan, verify
from bonsai_quant.cli.views import conversion as answers
from bonsai_quant.core.errors import (
    BadInput,
    EnvironmentFault,
    HubConflict,
    HubDenied,
    HubMismatch,
    HubUnavailable,
    UsageError,
)
from bonsai_quant.hub import cache as hub_cache
from bonsai_quant.hub import client
from bonsai_quant.sources import remote as remote_source
from bonsai_quant.sources.open import open_source
from tests.support import models
from tests.support.fakehub import FOREVER, TOKEN, FakeHub, body, drop, page, stall, status, use

NAME = "org/klein"
WEIGHTS = "diffusion_pytorch_model.safetensors"
OPTIONS = {"mode": "ternary", "formats": "bonsai", "threads": 2}


@pytest.fixture
def remote(cache, monkeypatch):
    """An empty fake Hub that the client talks to."""
    with FakeHub(NAME) as server:
        use(server.url, monkeypatch)
        yield server


@pytest.fixture(scope="module")
def pipeline_folder(tiny, tmp_path_factory) -> Path:
    """A whole pipeline: the tiny transformer and a text encoder that nobody needs."""
    folder = tmp_path_factory.mktemp("pipeline")
    (folder / "transformer").symlink_to(tiny, target_is_directory=True)
    (folder / "text_encoder").mkdir()
    (folder / "text_encoder" / "model.safetensors").write_bytes(b"x" * 100_000)
    (folder / "model_index.json").write_text("{}")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """A pipeline's files: through the link to its transformer too."""
    files = {p.relative_to(folder): p for d in (folder, *folder.iterdir()) if d.is_dir()
             for p in d.iterdir() if p.is_file()}  # fmt: skip
    return {str(k): p.read_bytes() for k, p in files.items()}


@pytest.fixture(scope="module")
def files(pipeline_folder) -> dict[str, bytes]:
    return contents(pipeline_folder)


@pytest.fixture(scope="module")
def local(tiny, tmp_path_factory) -> dict[str, bytes]:
    """The pack made from the folder itself: what every download must give."""
    out = tmp_path_factory.mktemp("local") / "out"
    convert(str(tiny), out=out, **OPTIONS)
    return packed(out)


def packed(out: Path) -> dict[str, bytes]:
    """Every file of a pack but the manifest, which names the source."""
    about = ("manifest.json", "README.md")
    found = (p for p in out.rglob("*") if p.is_file() and p.name not in about)
    return {str(p.relative_to(out)): p.read_bytes() for p in found}


def source_of(out: Path) -> dict:
    return json.loads((out / "bonsai" / "manifest.json").read_text())["source"]


def test_plan_reads_headers_only(remote, cache, tmp_path):
    big = models.save_folder(tmp_path / "big", models.tensors(models.SMALL), models.SMALL)
    remote.commit({f"transformer/{p.name}": p.read_bytes() for p in big.iterdir()})
    ours, theirs = plan(NAME, **OPTIONS), plan(str(big), **OPTIONS)
    assert theirs.source_bytes > 3_000_000 > 100_000 > remote.body_bytes
    assert answers.planned(ours).data == answers.planned(theirs).data
    assert (ours.files, ours.source.config) == (theirs.files, theirs.source.config)
    assert not cache.exists()
    assert not any(f.path.exists() for f in ours.source.files)


def test_convert_gives_the_same_pack_as_the_folder(remote, files, local, tmp_path):
    sha = remote.commit(files)
    made = convert(NAME, out=tmp_path / "out", **OPTIONS)
    assert packed(tmp_path / "out") == local
    source = source_of(tmp_path / "out")
    assert (source["id"], source["revision"]) == (NAME, sha)
    [file] = source["files"]
    assert file["sha256"] == hashlib.sha256(files[f"transformer/{WEIGHTS}"]).hexdigest()
    assert made.out.is_dir()
    assert not any("text_encoder" in r or "model_index" in r for r in remote.requests)


def test_verify_against_the_hub_downloads_too(remote, files, tiny, tmp_path):
    remote.commit(files)
    convert(str(tiny), out=tmp_path / "out", **OPTIONS)
    assert not verify(tmp_path / "out" / "bonsai", against=NAME, threads=2).failed


def test_shards(remote, local, tmp_path):
    folder = models.save_folder(tmp_path / "in" / "transformer", models.tensors(), shards=3)
    remote.commit(folder.parent)
    convert(NAME, out=tmp_path / "out", **OPTIONS)
    assert packed(tmp_path / "out") == local
    assert len(source_of(tmp_path / "out")["files"]) == 3


def test_original_layout_at_the_root(remote, local, tmp_path):
    file = models.save_original(tmp_path / "klein.safetensors", models.tensors())
    remote.commit({"klein.safetensors": file.read_bytes(), "ae/ae.safetensors": b"other"})
    convert(NAME, out=tmp_path / "out", **OPTIONS)
    name = "bonsai/model.safetensors"
    assert packed(tmp_path / "out")[name] == local[name]


def test_transformer_goes_before_the_root(remote, files, caplog):
    remote.commit(files | {"klein.safetensors": b"not read"})
    with caplog.at_level(logging.INFO):
        source = open_source(NAME)
    assert "transformer/ is read, the weights at the root are not" in caplog.text
    assert [f.name for f in source.files] == [WEIGHTS]
    assert not any("klein.safetensors" in r for r in remote.requests)


@pytest.mark.parametrize("folder", ["", "transformer/"])
def test_several_files_without_an_index(remote, folder):
    remote.commit({f"{folder}a.safetensors": b"x", f"{folder}b.safetensors": b"x"})
    with pytest.raises(BadInput, match=f"{folder}a.safetensors, {folder}b.safetensors"):
        open_source(NAME)


def test_no_weights(remote):
    remote.commit({"config.json": b"{}", "transformer/deep/x.safetensors": b""})
    with pytest.raises(BadInput, match="no .safetensors file"):
        open_source(NAME)


def test_a_moving_branch_gives_one_commit(remote, files, local, tmp_path):
    first = remote.commit(files)
    other = models.save_folder(tmp_path / "x" / "transformer", models.tensors(seed=1)).parent

    def move(request: str) -> None:
        if "/api/" in request:
            remote.commit(contents(other))

    remote.after = move
    convert(NAME, out=tmp_path / "out", **OPTIONS)
    assert packed(tmp_path / "out") == local
    assert source_of(tmp_path / "out")["revision"] == first
    assert remote.branches["main"] != first
    assert all(f"/resolve/{first}/" in r for r in remote.requests if "/resolve/" in r)


@pytest.mark.parametrize("how", ["@", "option", "sha"])
def test_revisions(remote, files, how):
    remote.commit({})
    sha = remote.commit(files, branch="v1.0")
    if how == "option":
        source = open_source(NAME, revision="v1.0")
    else:
        source = open_source(f"{NAME}@{'v1.0' if how == '@' else sha}")
    assert source.revision == sha


@pytest.mark.parametrize(
    ("place", "revision"),
    [(f"{NAME}@a", "b"), (f"{NAME}@../x", None), (NAME, "a/../b"), (NAME, "-x"), ("o--r/x", None),
     ("folder/typo.safetensors", None)],
)  # fmt: skip
def test_ids_and_revisions_that_cannot_be(remote, place, revision):
    with pytest.raises(UsageError):
        open_source(place, revision=revision)
    assert remote.requests == []


def test_a_path_has_no_revision(tiny):
    with pytest.raises(UsageError, match="is a path"):
        open_source(str(tiny), revision="main")


GATED = {"X_Error_Code": "GatedRepo"}
ERRORS = {
    "401": (status(401, "Invalid username or password."), HubDenied, "hf auth login"),
    "403": (status(403, f"Forbidden for {TOKEN}\nBearer {TOKEN}"), HubDenied, "HF_TOKEN"),
    "gated": (status(403, "You are not in the authorized list.", **GATED), HubDenied, "licence"),
    "404": (status(404, X_Error_Code="RepoNotFound"), HubConflict, "is not on the Hub"),
    "410": (status(410), HubConflict, "410"),
    "500": (status(500), HubUnavailable, "500"),
    "503": (status(503), HubUnavailable, "run again"),
    "429": (status(429, Retry_After="3600"), HubUnavailable, "wait 3600 s"),
    "drop": (drop, HubUnavailable, "could not be reached"),
    "page": (page, HubUnavailable, "not a Hub"),
    "nonsense": (body(b"[1, 2]"), HubUnavailable, "not a Hub"),
}


@pytest.mark.parametrize("at", ["GET /api/", "GET .*resolve.*/config.json", f"GET .*{WEIGHTS}"])
@pytest.mark.parametrize("name", ERRORS)
def test_failures_while_asking(remote, files, tmp_path, at, name):
    fault, kind, text = ERRORS[name]
    remote.commit(files)
    remote.fault(at, fault, times=FOREVER)
    with pytest.raises(kind, match=text) as stop:
        plan(NAME, **OPTIONS)
    assert stop.type is kind
    assert TOKEN not in str(stop.value)
    assert "\n" not in str(stop.value)
    assert stop.value.__suppress_context__ or not stop.value.__context__
    assert len(remote.requests) < 12


@pytest.mark.parametrize("at", ["GET /api/", f"GET .*{WEIGHTS}"])
def test_a_hub_that_never_answers(remote, files, at, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.5)
    remote.commit(files)
    remote.fault(at, stall, times=FOREVER)
    with pytest.raises(HubUnavailable, match="could not be reached: ReadTimeout"):
        open_source(NAME)


def test_unknown_revision(remote, files):
    remote.commit(files)
    with pytest.raises(HubConflict, match="no such revision"):
        open_source(NAME, revision="v9")


@pytest.mark.parametrize("fault", [status(500), status(429, Retry_After="0"), drop])
@pytest.mark.parametrize("at", ["GET /api/", f"GET .*{WEIGHTS}", "GET .*config.json"])
def test_what_passes_by_itself_is_tried_again(remote, files, at, fault):
    remote.commit(files)
    remote.fault(at, fault, None, fault)
    assert open_source(NAME).hub_id == NAME


@pytest.mark.parametrize("fault", [drop, status(503)], ids=["drop", "503"])
def test_a_download_goes_on_after_a_fault(remote, files, tmp_path, fault, monkeypatch):
    remote.commit(files)
    source = open_source(NAME)
    remote.fault(f"GET .*{WEIGHTS}", fault)
    assert remote_source.download(source).files[0].path.is_file()


@pytest.mark.parametrize(
    ("fault", "kind"),
    [(status(403), HubDenied), (status(404, X_Error_Code="EntryNotFound"), HubConflict),
     (status(503), HubUnavailable), (drop, HubUnavailable)],
)  # fmt: skip
def test_failures_of_a_download(remote, files, tmp_path, fault, kind, monkeypatch):
    remote.commit(files)
    source = open_source(NAME)
    remote.fault(f"GET .*{WEIGHTS}", fault, times=FOREVER)
    with pytest.raises(kind) as stop:
        remote_source.download(source)
    assert stop.type is kind
    assert not source.files[0].path.exists()


def test_no_hub_at_all(cache, monkeypatch):
    use("http://127.0.0.1:9", monkeypatch)
    with pytest.raises(HubUnavailable, match="could not be reached: ConnectError"):
        open_source(NAME)


@pytest.mark.parametrize("url", ["ftp://hub.example", "hub.example", "https://[bad", ""])
def test_an_endpoint_that_is_no_address(cache, monkeypatch, url):
    use(url, monkeypatch)
    with pytest.raises(UsageError, match="HF_ENDPOINT"):
        open_source(NAME)


@pytest.mark.parametrize(("url", "warned"), [("http://hub.example", True),
                                             ("https://hub.example", False),
                                             ("http://127.0.0.1:1", False)])  # fmt: skip
def test_a_token_in_clear_is_warned_about(cache, monkeypatch, caplog, url, warned):
    use(url, monkeypatch)
    client.check_endpoint()
    assert ("in clear" in caplog.text) == warned
    assert TOKEN not in caplog.text


def test_the_token_stays_with_the_hub(remote, files, cache):
    sha = remote.commit(files)
    with FakeHub(host="localhost") as cdn:
        remote.cdn, cdn.commits[sha] = cdn, files
        source = remote_source.download(open_source(NAME))
        assert all(f.path.is_file() for f in source.files)
        assert any("GET" in r for r in cdn.requests)
        assert not any(k.lower() == "authorization" for h in cdn.headers for k in h)
    assert all(h.get("authorization") == f"Bearer {TOKEN}" for h in remote.headers)


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


@pytest.fixture
def shell(remote, tmp_path):
    """Run the command line in a process of its own; -> code, out, err."""
    environment = {
        "PATH": os.environ["PATH"], "PYTHONPATH": str(Path(bonsai_quant.__file__).parents[1]),
        "HF_ENDPOINT": remote.url, "HF_HOME": str(tmp_path / "own"), "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
    }  # fmt: skip

    def call(*arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "bonsai_quant", *map(str, arguments)]
        return subprocess.run(
            command, env=environment | more, capture_output=True, text=True, timeout=120
        )

    return call


def test_command_line(remote, files, local, shell, tmp_path):
    sha = remote.commit(files)
    options = ("--mode", "ternary", "--format", "bonsai", "--threads", "2")
    done = shell("convert", NAME, "-o", tmp_path / "out", *options)
    assert (done.returncode, done.stderr) == (0, "")
    assert packed(tmp_path / "out") == local
    remote.clear()
    again = shell("plan", f"{NAME}@{sha}", *options, "--json", HF_HUB_OFFLINE="1")
    assert again.returncode == 0
    assert json.loads(again.stdout)["base"] == "flux2"
    assert remote.requests == []


def test_command_line_errors_are_one_line(remote, files, shell):
    remote.commit(files)
    remote.fault("GET /api/", status(403, f"no access with {TOKEN}", X_Error_Code="GatedRepo"))
    done = shell("plan", NAME, "--mode", "binary", "--debug")
    assert TOKEN not in done.stdout + done.stderr
    remote.fault("GET /api/", status(403, f"no access with {TOKEN}", X_Error_Code="GatedRepo"))
    done = shell("plan", NAME, "--mode", "binary", "-v")
    assert done.returncode == 8
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error[hub-denied]: {NAME}: the Hub answered 403: no access")
    assert TOKEN not in done.stdout + done.stderr
