"""Packs of others that are damaged or strange: it is found, and their manifests are not trusted."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("mlx.core")

import torch
from safetensors.torch import load_file, save_file

from bonsai_quant import diff, export, inspect, verify
from bonsai_quant.core.errors import BadInput, BonsaiError
from bonsai_quant.packs.read import open_pack
from bonsai_quant.storage.containers import torchzip_reader
from tests.support import published
from tests.support.published import LAYER, WEIGHTS, failures, weights_path

pytestmark = pytest.mark.heavy


@pytest.fixture
def copy(released, tmp_path):
    """copy(layout) -> a copy to be damaged, and its weight file."""

    def of(layout):
        shutil.copytree(released.repos[layout], tmp_path / layout)
        return tmp_path / layout, tmp_path / layout / weights_path(layout, released.model)

    return of


def test_dense_weights_on_a_grid_need_no_manifest(released, copy):
    folder, _ = copy("unpacked")
    (folder / "manifest.json").unlink()
    assert dict(inspect(folder)[0].facts)["mode"] == released.mode
    file, codes = verify(folder).checks
    assert (file.status, codes.status) == ("not run", "passed")


def edit(path, change):
    """Change the tensors of a file and save it anew, with the library of its kind."""
    if path.suffix == ".pt":
        state = torch.load(path, weights_only=True)
        change(state)
        torch.save(state, path)
        return
    state = load_file(path)
    change(state)
    save_file(state, path, {"format": "pt"})


def put(name, at, value):
    def change(state):
        state[name].view(torch.int32 if state[name].dtype == torch.uint32 else state[name].dtype)[
            at
        ] = value

    return change


def drop(state):
    del state["norm_out.linear.weight"]


def add(state):
    state[f"{LAYER}.meta_scale"] = torch.ones(1)


def off_grid(state):
    """A binary group keeps one magnitude: only a third one is wrong in both modes."""
    state[f"{LAYER}.weight"][2, 5] *= 1.5


DAMAGE = {
    "code 3": ("mlx", put(f"{LAYER}.weight", (2, 1), -1), "row 2, column 16: code 3"),
    "bias": ("mlx", put(f"{LAYER}.biases", (2, 0), 0.5), "row 2, group 0: bias is 0.5"),
    "scale nan": ("mlx", put(f"{LAYER}.scales", (2, 0), np.nan), "row 2, group 0: scale nan"),
    "missing": ("mlx", drop, "lacks 1 tensors: norm_out.linear.weight"),
    "kept inf": ("mlx", put("proj_out.weight", (1, 2), np.inf), "inf does not fit 16 bits"),
    "gemlite code 3": ("gemlite", put(f"{LAYER}.W_q", (1, 2), 255), "row 2, column 4: code 3"),
    "gemlite zero": ("gemlite", put(f"{LAYER}.zeros", (0, 2), 0), "row 2, group 0: zero is 0"),
    "gemlite scale nan": ("gemlite", put(f"{LAYER}.scales", (0, 2), np.nan), "scale nan"),
    "gemlite scale 0": ("gemlite", put(f"{LAYER}.scales", (0, 2), 0), "scale 0 is not a positive"),
    "gemlite scale of fp32": (
        "gemlite", put(f"{LAYER}.scales", (0, 2), 0.0123456789), "row 2, group 0: scale 0.0"),
    "gemlite scale below the grid": (
        "gemlite", put(f"{LAYER}.scales", (0, 2), 2.0**-16), "row 2, group 0: scale"),
    "gemlite missing": ("gemlite", drop, "lacks 1 tensors: norm_out.linear.weight"),
    "gemlite extra": ("gemlite", add, "meta_scale: has no place in this format, and clients"),
    "unpacked": ("unpacked", off_grid, "is not 0 or the group's scale"),
    "unpacked missing": ("unpacked", drop, "norm_out"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_found_by_the_manifest_and_without_it(released, copy, case):
    layout, change, words = DAMAGE[case]
    if "code 3" in case and released.mode == "binary":
        pytest.skip("every code of one bit is legal")
    folder, path = copy(layout)
    edit(path, change)
    ((level, detail),) = failures(verify(folder))
    assert (level, path.name in detail, "the manifest says" in detail) == ("file", True, True)
    with pytest.raises(BonsaiError):
        export(folder, format="bonsai", out=folder.parent / "out")
    (folder / "manifest.json").unlink()
    if case == "unpacked missing":  # then it is no known model at all
        with pytest.raises(BadInput, match=words):
            inspect(folder)
        return
    ((level, detail),) = failures(verify(folder))
    assert level == "codes"
    assert words in detail


def test_a_damaged_group_does_not_make_a_layer_a_kept_one(released, copy):
    """Wherever it is: also where the groups are that tell what the layer is."""
    folder, path = copy("unpacked")

    def change(state):
        state[f"{LAYER}.weight"][0, :20] = torch.arange(20) / 32

    edit(path, change)
    (folder / "manifest.json").unlink()
    assert f"{LAYER}.weight" in {t.name for t in open_pack(folder).info.packed}
    ((_, detail),) = failures(verify(folder))
    assert f"{LAYER}.weight: row 0" in detail


def test_layers_left_dense_are_kept_and_named(released, copy, caplog):
    folder, path = copy("unpacked")

    def change(state):
        state[f"{LAYER}.weight"].copy_(torch.randn(state[f"{LAYER}.weight"].shape))

    edit(path, change)
    (folder / "manifest.json").unlink()
    assert not failures(verify(folder))
    assert f"1 layers are on no grid, and kept: {LAYER}.weight" in caplog.text


def test_gemlite_scales_may_be_fp16_and_tensors_may_have_been_on_a_gpu(released, copy, monkeypatch):
    folder, path = copy("gemlite")
    (folder / "manifest.json").unlink()
    monkeypatch.setattr("torch.serialization.location_tag", lambda _: "cuda:0")
    torch.save(published.gemlite_state(released.model, scales=torch.float16), path)
    monkeypatch.undo()
    with pytest.raises(RuntimeError, match="CUDA"):
        torch.load(path, weights_only=True)  # it is what a GPU's owner saves
    assert diff(folder, released.ours).same
    assert not failures(verify(folder, level="kernel", layers=1))


def test_kept_tensors_may_be_wider(released, copy):
    folder, path = copy("gemlite")
    (folder / "manifest.json").unlink()
    kept = {n: w.float() for n, w in released.model.kept.items()}
    torch.save(published.gemlite_state(released.model) | kept, path)
    assert not failures(verify(folder))
    assert diff(folder, released.ours).same


def test_our_own_packs_are_read_as_strictly_as_before(released, tmp_path):
    """What may be different in packs of others is damage in one of this program."""
    from tests.support.forge import resign

    export(released.repos["gemlite"], format="gemlite", out=tmp_path / "out")
    path = tmp_path / "out" / weights_path("gemlite", released.model)
    edit(path, put("proj_out.weight", (0, 0), 1e-9))
    resign(tmp_path / "out")
    ((_, detail),) = failures(verify(tmp_path / "out"))
    assert "element 0: 9.96806e-10 is not a number of both" in detail


CONFIGS = {
    "layers": ({"num_layers": 7}, "says num_layers = 7"),
    "rope": ({"axes_dims_rope": "os.system"}, "axes_dims_rope = os.system"),
    "eps": ({"eps": None}, "eps = None"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_that_cannot_be_is_refused(copy, case):
    change, words = CONFIGS[case]
    folder, path = copy("mlx")
    config = path.parent / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(BadInput, match=words):
        open_pack(folder)


def listing(*entries):
    return {"model_version": "x", "files": list(entries)}


WEIGHT = {"remote_path": WEIGHTS["mlx"], "sha256": "0" * 64}
STRANGE = {
    "a list": ([1, 2], "not run"),
    "files is a dict": ({"files": {"a": 1}}, "not run"),
    "no files": ({"files": []}, "not run"),
    "an entry is text": (listing("README.md"), "not run"),
    "path is a number": (listing({"path": 7, "size": 1}), "not run"),
    "size is text": (listing({"path": "README.md", "size": "12"}), "not run"),
    "size is negative": (listing({"path": "README.md", "size": -1}), "not run"),
    "size is true": (listing({"path": "README.md", "size": True}), "not run"),
    "hash is short": (listing({"path": "README.md", "sha256": "abc"}), "not run"),
    "nothing to check": (listing({"path": "README.md"}), "not run"),
    "twice": (listing(WEIGHT, WEIGHT), "not run"),
    "too many": (listing(*({"path": f"f{i}", "size": i} for i in range(10_001))), "not run"),
    "weights not listed": (listing({"path": "NOTICE.md", "size": 9}), "not run"),
    "parent": (listing({"path": "../secret", "sha256": "0" * 64}), "failed"),
    "hidden parent": (listing({"path": "a/../../secret", "size": 6}), "failed"),
    "absolute": (listing({"path": "/etc/passwd", "size": 1}), "failed"),
    "backslash": (listing({"path": "..\\secret", "size": 6}), "failed"),
    "escape": (listing({"path": "\x1b[2K", "size": 6}), "failed"),
    "long": (listing({"path": "a" * 5000, "size": 6}), "failed"),
    "nul": (listing({"path": "a\0b", "size": 6}), "failed"),
    "link": (listing({"path": "link", "size": 6}), "failed"),
    "through a link": (listing({"path": "up/secret", "size": 6}), "failed"),
    "fifo": (listing({"path": "fifo", "size": 0}), "failed"),
    "a folder": (listing({"path": "transformer-packed-mflux", "size": 1}), "failed"),
    "missing": (listing({"path": "tokenizer.json", "size": 1}), "failed"),
    "wrong size": (listing({"path": "NOTICE.md", "size": 10}), "failed"),
    "wrong hash": (listing(WEIGHT), "failed"),
    "huge": ('{"files": []}' + " " * (17 << 20), "failed"),
    "deep": ("[" * 100_000, "failed"),
    "a key twice": ('{"files": [], "files": []}', "failed"),
    "right size": (listing({"name": "NOTICE.md", "bytes": 9}), "not run"),
}


@pytest.mark.parametrize("case", STRANGE)
def test_manifests_of_others_are_never_trusted(copy, case, tmp_path, monkeypatch):
    """Nothing outside of the folder is opened, nothing crashes, and the rest is still checked."""
    said, status = STRANGE[case]
    folder, _ = copy("mlx")
    (tmp_path / "secret").write_text("secret")
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "up").symlink_to(tmp_path)
    os.mkfifo(folder / "fifo")
    (folder / "manifest.json").write_text(said if isinstance(said, str) else json.dumps(said))
    opened = watch(monkeypatch)
    verdict = verify(folder)
    assert verdict.checks[0].status == status, verdict.checks[0].detail
    assert "\x1b" not in verdict.checks[0].detail
    if not isinstance(said, str):
        inspect(folder)
    outside = [p for p in opened if not os.path.realpath(p).startswith(str(folder))]
    assert outside == []
    try:
        export(folder, format="bonsai", out=tmp_path / "out")
    except BonsaiError:
        assert status == "failed"


def watch(monkeypatch):
    """Names of all files that are opened for reading from now on."""
    from bonsai_quant.storage import fs

    names, right = [], fs.open_regular

    def noting(path):
        names.append(path)
        return right(path)

    for module in (fs, torchzip_reader.fs):
        monkeypatch.setattr(module, "open_regular", noting)
    return names
