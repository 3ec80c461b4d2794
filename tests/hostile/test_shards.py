"""Group B: indices and shards that do not fit each other, and links that leave the folder."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from .conftest import (
    FIRST,
    INDEX,
    MATRIX,
    SECOND,
    SINGLE_FILE,
    STRICT,
    edit,
    put,
    save,
    save_shards,
    tiny,
)

# Changes of the index alone; the texts that the message must hold beside its name.
INDICES = {
    "B31-list": (lambda t: b"[]", ("weight_map",)),
    "B31-text": (lambda t: b'"x"', ("weight_map",)),
    "B31-empty-file": (lambda t: b"", ("not JSON",)),
    "B31-no-map": (lambda t: b"{}", ("weight_map",)),
    "B31-map-is-a-list": (put("weight_map", value=[]), ("weight_map",)),
    "B31-number": (put("weight_map", MATRIX, value=3), ("weight_map",)),
    "B31-null": (put("weight_map", MATRIX, value=None), ("weight_map",)),
    "B31-list-of-shards": (put("weight_map", MATRIX, value=[FIRST]), ("weight_map",)),
    "B31-empty-map": (put("weight_map", value={}), (FIRST, SECOND)),
    "B36-key-twice": (
        lambda t: b'{"weight_map":{"a":"b.safetensors","a":"c.safetensors"}}', ("'a'", "twice")),
    "B36-map-twice": (lambda t: b'{"weight_map":{},"weight_map":{}}', ("'weight_map'", "twice")),
    "B50-deep": (lambda t: b"[" * 100_000, ("nested",)),
    "B50-long-number": (lambda t: b'{"weight_map":' + b"9" * 100_000 + b"}", ("not JSON",)),
    "B31-nan": (lambda t: b'{"weight_map":NaN}', ("NaN",)),
    "B31-bad-utf8": (lambda t: b'{"weight_map":"\xff"}', ("utf-8",)),
}  # fmt: skip


@pytest.mark.parametrize("case", INDICES)
def test_broken_indices(case, folder, refuse):
    change, says = INDICES[case]
    edit(folder / INDEX, change)
    refuse(3, folder, INDEX, *says, within=2)


def test_b32_all_missing_shards_are_listed(folder, refuse):
    (folder / FIRST).unlink()
    (folder / SECOND).unlink()
    refuse(3, folder, INDEX, FIRST, SECOND)


def test_b33_in_the_index_but_not_in_the_shard(folder, refuse):
    edit(folder / INDEX, put("weight_map", "ghost.weight", value=SECOND))
    refuse(3, folder, SECOND, "tensor ghost.weight")


def test_b34_in_the_shard_but_not_in_the_index(folder, refuse):
    where = {}
    edit(folder / INDEX, lambda t: where.update(shard=t["weight_map"].pop(MATRIX)))
    refuse(3, folder, where["shard"], f"tensor {MATRIX}")


def test_b34_in_another_shard_than_the_index_says(folder, refuse):
    where = {}

    def move(table: Any) -> None:
        where.update(old=table["weight_map"][MATRIX])
        table["weight_map"][MATRIX] = FIRST if where["old"] == SECOND else SECOND

    edit(folder / INDEX, move)
    refuse(3, folder, where["old"], f"tensor {MATRIX}")


@pytest.mark.parametrize("owner", [FIRST, SECOND], ids=["index-says-1", "index-says-2"])
@pytest.mark.parametrize("factor", [1, -1], ids=["equal", "different"])
def test_b35_one_tensor_in_two_shards(owner, factor, tmp_path, refuse):
    folder, weights = save_shards(tmp_path / "model"), tiny()
    names = sorted(weights)
    for k, name in enumerate((FIRST, SECOND)):
        part = {n: weights[n] for n in names[k::2]}
        save(folder / name, part | {MATRIX: weights[MATRIX] * (1 if k else factor)})
    edit(folder / INDEX, put("weight_map", MATRIX, value=owner))
    refuse(3, folder, f"tensor {MATRIX}", FIRST, SECOND)


@pytest.mark.parametrize("claim", [1, 10**30, -1, "12\x1b[31m", 1.5, [1], True])
def test_b36_a_wrong_total_is_a_warning_or_an_error(claim, folder, accept, refuse):
    edit(folder / INDEX, put("metadata", "total_size", value=claim))
    refuse(3, folder, INDEX, "announces", options=STRICT)
    lines = accept(folder).err.splitlines()
    assert len(lines) == 1 and INDEX in lines[0] and lines[0].isprintable()


@pytest.mark.parametrize("metadata", [None, [], "x", {}, {"total_size": None}])
def test_b36_a_total_is_not_needed(metadata, folder, accept):
    edit(folder / INDEX, put("metadata", value=metadata))
    assert accept(folder, "--strict").err == ""


SHARD_NAMES = (
    *("../x.safetensors", "/etc/passwd", "/etc/x.safetensors", "a/b.safetensors", ".", "..", ""),
    *("C:\\x.safetensors", "\\\\srv\\x.safetensors", "\0", "a\0.safetensors", ".safetensors"),
    *("..safetensors", "x.safetensors\n", "-x.safetensors", "x.safetensors/../../y.safetensors"),
    *("config.json", "~.safetensors"),
)


@pytest.mark.parametrize("name", SHARD_NAMES)
def test_b37_shards_outside_the_folder_are_never_opened(name, folder, refuse, monkeypatch):
    shutil.copy(folder / FIRST, folder.parent / "x.safetensors")
    edit(folder / INDEX, put("weight_map", MATRIX, value=name))
    opened, real = [], os.open
    monkeypatch.setattr(os, "open", lambda p, *a, **k: opened.append(str(p)) or real(p, *a, **k))
    refuse(3, folder, INDEX, "plain file name")
    inside = [p for p in opened if p.startswith(str(folder))]
    assert inside == [str(folder / INDEX)]
    assert not any(p.endswith(("x.safetensors", "passwd")) for p in opened)


@pytest.mark.parametrize("kind", ["index", "lone"])
def test_b38_a_link_that_leaves_the_folder(kind, folder, refuse):
    outside = folder.parent / "secret.safetensors"
    (folder / SECOND).rename(outside)
    if kind == "lone":
        (folder / INDEX).unlink()
        (folder / FIRST).unlink()
    (folder / SECOND).symlink_to(outside)
    refuse(3, folder, SECOND, "link")


def hub_cache(root: Path, folder: Path, blob: str = "ab" * 32) -> Path:
    """The folder as the Hub's cache would hold it: links to ../../blobs; -> the snapshot."""
    repo = root / "models--org--name"
    snapshot = repo / "snapshots" / ("c" * 40)
    (repo / "blobs").mkdir(parents=True)
    (snapshot / "transformer").mkdir(parents=True)
    for k, path in enumerate(sorted(folder.iterdir())):
        stored = repo / "blobs" / f"{k}{blob[1:]}"
        shutil.move(path, stored)
        (snapshot / "transformer" / path.name).symlink_to(
            os.path.relpath(stored, snapshot / "transformer")
        )
    return snapshot


@pytest.mark.parametrize("at", ["snapshot", "transformer"])
def test_b38_links_of_the_hub_cache_are_followed(at, folder, tmp_path, accept):
    expected = accept(folder, out="direct").pack
    snapshot = hub_cache(tmp_path, folder)
    pack = accept(snapshot / "transformer" if at == "transformer" else snapshot).pack
    assert (pack / SINGLE_FILE).read_bytes() == (expected / SINGLE_FILE).read_bytes()


@pytest.mark.parametrize("case", ["another-repo", "not-a-hash", "through-a-second-link"])
def test_b38_other_links_in_the_hub_cache_are_not(case, folder, tmp_path, refuse):
    snapshot = hub_cache(tmp_path, folder)
    link = snapshot / "transformer" / SECOND
    blob = Path(os.path.realpath(link))
    targets = {
        "another-repo": tmp_path / "models--org--other" / "blobs" / blob.name,
        "not-a-hash": blob.parent / "settings.json",
        "through-a-second-link": tmp_path / "elsewhere",
    }
    target = targets[case]
    target.parent.mkdir(parents=True, exist_ok=True)
    blob.rename(target)
    if case == "through-a-second-link":
        blob.symlink_to(target)
    else:
        link.unlink()
        link.symlink_to(target)
    refuse(3, snapshot, SECOND, "link")


def test_b39_a_single_file_beside_shards(folder, refuse):
    save(folder / "diffusion_pytorch_model.safetensors", tiny())
    refuse(3, folder, "diffusion_pytorch_model.safetensors", INDEX)


def test_b39_a_stray_shard(folder, refuse):
    shutil.copy(folder / FIRST, folder / "model-00003-of-00002.safetensors")
    refuse(3, folder, "model-00003-of-00002.safetensors", INDEX)


def test_b39_shards_without_their_index(folder, refuse):
    (folder / INDEX).unlink()
    refuse(3, folder, FIRST, SECOND, "no index")


def test_b39_two_indices(folder, refuse):
    shutil.copy(folder / INDEX, folder / "model.safetensors.index.json")
    refuse(3, folder, INDEX, "model.safetensors.index.json")


def test_b40_shards_of_two_runs_that_were_split_differently(folder, tmp_path, refuse):
    other = save_shards(tmp_path / "other", 3)
    shutil.copy(other / FIRST.replace("of-00002", "of-00003"), folder / FIRST)
    refuse(3, folder, "tensor ", FIRST)


def test_b40_the_manifest_tells_which_shards_were_read(folder, accept):
    """Shards split alike cannot be told apart by their headers; their hashes are on record."""
    import hashlib

    save(folder / FIRST, {n: -w for n, w in tiny().items() if n in in_shard(folder, FIRST)})
    manifest = json.loads((accept(folder).pack / "manifest.json").read_text())
    said = {f["name"]: f["sha256"] for f in manifest["source"]["files"]}
    assert said == {
        n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in (FIRST, SECOND)
    }


def in_shard(folder: Path, shard: str) -> set[str]:
    where = json.loads((folder / INDEX).read_text())["weight_map"]
    return {name for name, place in where.items() if place == shard}


def test_b41_file_names_that_differ_in_case(tmp_path, refuse):
    save(tmp_path / "model" / "model.safetensors", tiny())
    save(tmp_path / "model" / "Model.safetensors", tiny())
    refuse(3, tmp_path / "model", "model.safetensors", "Model.safetensors")


def test_b41_tensor_names_that_differ_in_case(tmp_path, refuse):
    weights = tiny()
    weights["X_embedder.weight"] = weights["x_embedder.weight"]
    path = save(tmp_path / SINGLE_FILE, weights)
    refuse(3, path, path.name, "1 tensors of no known use: X_embedder.weight")
