"""The six layouts that others publish: everything works on them."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("mlx.core")

import torch

from bonsai_quant import diff, export, generate, inspect, verify
from bonsai_quant.packs.find import find_packs
from bonsai_quant.packs.formats import FORMAT_NAMES
from bonsai_quant.packs.pipeline import locate
from bonsai_quant.packs.read import open_pack
from bonsai_quant.runners.mlx.runner import MlxRunner
from bonsai_quant.runners.torch.runner import TorchRunner
from bonsai_quant.verification.kernels.gemlite_process import run_child
from tests.support import models
from tests.support.published import (
    LAYOUTS,
    failures,
    publish,
    release,
    weights_path,
    write_manifest,
)

pytestmark = pytest.mark.heavy


@pytest.fixture(params=LAYOUTS)
def repo(request, released):
    return released.repos[request.param]


def finer(model) -> int:
    """Kept values that fp16 does not hold, as torch counts them."""
    return sum(int((w.float() != w.half().float()).sum()) for w in model.kept.values())


def test_inspect_tells_what_they_are(released, repo):
    (found,) = inspect(repo)
    facts = dict(found.facts)
    assert found.kind == "pack"
    assert (facts["format"], facts["mode"]) == (repo.name, released.mode)
    assert facts["packed"].startswith(f"{len(released.model.packed)} layers, ")
    assert facts["kept"].startswith(f"{len(released.model.kept)} tensors, ")
    assert f"{released.mode} g128 (bf16 master)" in facts["manifest"]


def test_weights_are_the_ones_that_were_published(released, repo):
    pack = open_pack(repo)
    for t in pack.info.packed:
        parts = pack.parts(t)
        found = pack.format.dense(pack.layer(t, parts), parts, 0, t.shape[0])
        assert np.array_equal(found, released.model.packed[t.linear].dense.float().numpy())
    for t in pack.info.kept:
        exact = released.model.kept[t.name].float()
        assert np.abs(pack.kept(t) - exact.numpy()).max() <= 2.0**-25


def test_verify_passes_and_says_what_it_could_check(released, repo, standin):
    verdict = verify(repo, against=str(standin))
    file, codes, likeness = verdict.checks
    assert [c.status for c in verdict.checks] == ["passed"] * 3
    assert "files of another program's manifest, " in file.detail
    assert f"; {finer(released.model)} kept values are finer than fp16" in codes.detail
    assert "no recipe to repeat; every tensor resembles the source's" in likeness.detail


def test_the_three_layouts_agree(released, tmp_path):
    for name, repo in released.repos.items():
        shutil.copytree(repo, tmp_path / name)
    subjects = [c.subject for c in verify(tmp_path).checks if c.status == "passed"]
    assert subjects[3:] == ["mlx", "gemlite = mlx", "unpacked = mlx"]


def test_they_are_the_same_as_our_own_conversion(released, repo):
    assert diff(repo, released.ours).same
    assert diff(released.ours, repo).same


@pytest.mark.parametrize("target", FORMAT_NAMES)
def test_exports_are_equal_bit_for_bit_and_verify(released, tmp_path, target):
    if target not in models.FORMATS[released.mode]:
        pytest.skip(f"{target} holds no {released.mode} pack")
    written = {}
    for name, repo in released.repos.items():
        manifest = export(repo, format=target, out=tmp_path / name)
        assert not verify(tmp_path / name).failed
        assert f"; {finer(released.model)} kept values were" in manifest.recipe["description"]
        assert "solver" not in manifest.recipe
        assert (manifest.source.id, manifest.source.files) == (None, [])
        files = sorted(p for p in (tmp_path / name).rglob("*") if p.is_file())
        written[name] = [(p.relative_to(tmp_path / name), p.read_bytes()) for p in files]
    assert written["mlx"] == written["gemlite"]
    # Dense weights do not tell the scale of a group of zeros, which ternary ones may have.
    assert (written["unpacked"] == written["mlx"]) == (
        target in ("unpacked", "comfyui") or released.mode == "binary"
    )
    assert all("= mlx" in c.subject for c in verify(tmp_path).checks[-2:])
    assert diff(tmp_path / "mlx", released.ours).same
    assert diff(tmp_path / "unpacked", tmp_path / "mlx").same
    again = export(tmp_path / "mlx", format=target, out=tmp_path / "again")
    assert "solver" not in again.recipe
    facts = dict(inspect(tmp_path / "again")[0].facts)
    assert (facts["solver"], facts["source"]) == ("unknown", "unknown")


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_pictures_are_those_of_our_own_pack(released, standin, tmp_path, monkeypatch, backend):
    """The text encoder is not theirs, and takes longest to load: any captions do."""
    captions = np.random.default_rng(0).standard_normal((1, 20, 192), dtype=np.float32)
    for runner in (MlxRunner, TorchRunner):
        monkeypatch.setattr(runner, "encode", lambda *_: captions)
    for module in ("torch", "mlx"):
        monkeypatch.setattr(f"bonsai_quant.runners.{module}.runner.give_back", lambda: None)

    def painted(place):
        out = tmp_path / f"{place.name}.png"
        generate(
            place, ["a red circle"], out=out, size="64x64", steps=1, backend=backend,
            pipeline=str(standin),
        )  # fmt: skip
        return pixels(out)

    mine = painted(released.ours)
    assert mine.std() > 1
    for repo in released.repos.values():
        assert np.array_equal(painted(repo), mine)


def pixels(path):
    from PIL import Image

    return np.array(Image.open(path))


def test_steps_of_theirs_can_be_proved(released, standin):
    repo = released.repos["gemlite" if released.mode == "ternary" else "unpacked"]
    verdict = verify(repo, level="step", pipeline=str(standin), backends=("torch",))
    assert not verdict.failed
    assert {c.level for c in verdict.checks if c.status == "passed"} == {"file", "codes", "step"}


def test_a_stub_of_an_index_does_not_make_a_pipeline(released, standin, tmp_path):
    pipeline = locate(str(released.repos["gemlite"]), pipeline=str(standin))
    assert (pipeline.pack is not None, pipeline.folder) == (True, standin)
    whole = tmp_path / "whole"
    shutil.copytree(released.repos["gemlite"], whole)
    for part in ("text_encoder-hqq-4bit/tokenizer", "vae"):
        (whole / part).mkdir(parents=True)
    pipeline = locate(str(whole))
    assert (pipeline.pack is not None, pipeline.folder, pipeline.distilled) == (True, whole, True)


def test_a_pipeline_on_a_grid_stays_a_pipeline(released, standin, tmp_path):
    folder = tmp_path / "trained"
    shutil.copytree(standin, folder)
    shutil.copytree(released.repos["unpacked"] / "transformer", folder / "transformer",
                    dirs_exist_ok=True)  # fmt: skip
    assert (locate(str(folder)).pack, locate(str(folder)).folder) == (None, folder)


def test_an_ordinary_checkpoint_stays_a_checkpoint(standin, tmp_path):
    shutil.copytree(standin / "transformer", tmp_path / "transformer")
    for manifest in (None, {"model_version": "full precision"}):
        if manifest:
            write_manifest(tmp_path, manifest)
        assert find_packs(tmp_path) == []
        assert inspect(tmp_path)[0].kind == "checkpoint"


WIDE = ((1, 1), {"h": 256, "i": 128, "o": 128, "j": 128, "t": 64, "d": 128, "m": 256})
"""gemlite stores layers of a single group in another way."""


def test_files_of_what_gemlite_itself_packed_are_read(tmp_path):
    source = models.save_folder(tmp_path / "transformer", models.tensors(WIDE), WIDE)
    made = [release(source, mode) for mode in ("ternary", "binary")]
    answer = run_child([t for model in made for t in to_pack(model)], timeout_s=300)
    if answer.status != "passed":
        pytest.skip(f"gemlite does not run here: {answer.reason}")
    outputs = iter(answer.outputs)
    for model in made:
        state = {
            f"{name}.{leaf}": torch.from_numpy(array)
            for name in model.packed
            for leaf, array in next(outputs).items()
        }
        folder = publish(tmp_path / model.mode, "gemlite", model, manifest=False)
        torch.save(state | model.kept, folder / weights_path("gemlite", model))
        mlx = publish(tmp_path / f"{model.mode}-mlx", "mlx", model, manifest=False)
        assert not failures(verify(folder))
        assert diff(folder, mlx).same


def to_pack(model) -> list:
    """Tasks for gemlite's pack(): the weight is (code - zero) * scale."""
    step, zero = (1, 1.0) if model.mode == "ternary" else (2, 0.5)
    return [
        {"codes": layer.codes.numpy(), "scales": step * layer.s.numpy(),
         "zeros": np.full(layer.s.shape, zero, np.float32), "bits": np.array(model.bits)}
        for layer in model.packed.values()
    ]  # fmt: skip


def test_a_snapshot_in_the_hub_cache_is_checked_through_its_links(released, tmp_path):
    root = tmp_path / "models--a--b"
    snapshot, blobs = root / "snapshots" / ("1" * 40), root / "blobs"
    blobs.mkdir(parents=True)
    source = released.repos["mlx"]
    for i, path in enumerate(sorted(p for p in source.rglob("*") if p.is_file())):
        blob = blobs / f"{i:064x}"
        shutil.copyfile(path, blob)
        link = snapshot / path.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    assert [c.status for c in verify(snapshot).checks] == ["passed", "passed"]
