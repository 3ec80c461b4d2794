"""Sources on the Hub, against a Hub on this machine."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

import bonsai_quant
from bonsai_quant import convert, plan, verify
from bonsai_quant.cli.views import conversion as answers
from bonsai_quant.core.errors import BadInput, UsageError
from bonsai_quant.sources.open import open_source
from tests.support import models
from tests.support.fakehub import TOKEN, status
from tests.support.watching import Watching, without_progress

from .conftest import NAME, OPTIONS, WEIGHTS, contents, packed, source_of


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
    watching = Watching()
    made = convert(NAME, out=tmp_path / "out", progress=watching, **OPTIONS)
    assert packed(tmp_path / "out") == local
    done, size = watching.of("fetching source")
    assert done == size >= len(files[f"transformer/{WEIGHTS}"])
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


@pytest.mark.heavy
def test_command_line(remote, files, local, shell, tmp_path):
    sha = remote.commit(files)
    options = ("--mode", "ternary", "--format", "bonsai", "--threads", "2")
    done = shell("convert", NAME, "-o", tmp_path / "out", *options)
    assert (done.returncode, without_progress(done.stderr)) == (0, "")
    assert packed(tmp_path / "out") == local
    remote.clear()
    again = shell("plan", f"{NAME}@{sha}", *options, "--json", HF_HUB_OFFLINE="1")
    assert again.returncode == 0
    assert json.loads(again.stdout)["base"] == "flux2"
    assert remote.requests == []


@pytest.mark.heavy
def test_command_line_errors_are_one_line(remote, files, shell):
    remote.commit(files)
    remote.fault("GET /api/", status(403, f"no access with {TOKEN}", X_Error_Code="GatedRepo"))
    done = shell("plan", NAME, "--mode", "binary", "--debug")
    assert TOKEN not in done.stdout + done.stderr
    remote.fault("GET /api/", status(403, f"no access with {TOKEN}", X_Error_Code="GatedRepo"))
    done = shell("plan", NAME, "--mode", "binary", "-v")
    assert done.returncode == 8
    assert without_progress(done.stderr).count("\n") == 1
    assert done.stderr.startswith(f"error[hub-denied]: {NAME}: the Hub answered 403: no access")
    assert TOKEN not in done.stdout + done.stderr
