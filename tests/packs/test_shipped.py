"""The model that comes with the package is a source by its name, everywhere."""

from __future__ import annotations

import json
import shutil

import pytest

from bonsai_quant import convert, inspect, plan, verify
from bonsai_quant.core.errors import EnvironmentFault, UsageError
from bonsai_quant.evaluation.judging import judge, shrink
from bonsai_quant.evaluation.task import make_task, scenery
from bonsai_quant.packs.pipeline import find_pipeline, locate
from bonsai_quant.runners import open_runner
from bonsai_quant.runners.picture_settings import read_benchmark
from bonsai_quant.runners.runner import paint
from bonsai_quant.sources import shipped
from bonsai_quant.sources.open import open_source
from bonsai_quant.verification.levels.images import LEAST_PSNR, psnr
from tests.support import models

NAME = "mini-klein"
pytestmark = pytest.mark.usefixtures("shipped")


def test_the_name_is_a_source(tmp_path):
    work = plan(NAME, mode="ternary")
    assert (work.source.place, work.source.id, work.source.revision) == (NAME, NAME, None)
    made = convert(NAME, mode="ternary", out=tmp_path / "out", transformer_only=True)
    assert not verify(tmp_path / "out", against=NAME).failed
    assert dict(inspect(tmp_path / "out/bonsai")[0].facts)["source"] == NAME
    assert dict(inspect(NAME)[0].facts)["base"] == made.manifests["bonsai"].base


def test_the_manifest_names_it_and_not_this_machine(standin, tmp_path):
    convert(NAME, mode="binary", formats="bonsai", out=tmp_path / "out")
    text = (tmp_path / "out/bonsai/manifest.json").read_text()
    assert json.loads(text)["source"]["id"] == NAME
    assert str(standin.parent) not in text


def test_the_same_bytes_as_from_its_folder(standin, tmp_path):
    for place, out in ((NAME, "name"), (str(standin), "folder")):
        convert(place, mode="ternary", formats="bonsai", out=tmp_path / out)
    a, b = ((tmp_path / o / "bonsai/model.safetensors").read_bytes() for o in ("name", "folder"))
    assert a == b


def test_a_path_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models.save_folder(tmp_path / NAME / "transformer", models.tensors())
    source = open_source(NAME)
    assert source.id is None
    assert source.files[0].path.parent.parent.resolve() == (tmp_path / NAME).resolve()


def test_the_output_may_have_its_name(tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    out = run("convert", NAME, "--mode", "ternary", "--format", "bonsai", "-o", f"{NAME}/packs")
    assert out.code == 0, out.err
    monkeypatch.chdir(tmp_path / NAME)
    assert run("convert", NAME, "--mode", "ternary", "--format", "bonsai").code == 0
    assert (tmp_path / NAME / f"{NAME}-ternary/bonsai").is_dir()


@pytest.mark.parametrize("word", ["mini-clean", "mini-klein@main", "mini-klein/transformer/x", ""])
def test_other_words_are_errors_that_list_the_names(word, run):
    result = run("plan", word, "--mode", "ternary")
    assert result.code == 2
    meant = f"did you mean '{NAME}'? -> bonsai-quant plan {NAME} --mode ternary" in result.err
    assert meant or f"or {NAME}, which comes with this program" in result.err


def test_it_has_no_revisions():
    with pytest.raises(UsageError, match="no revisions"):
        open_source(NAME, revision="main")


def test_an_installation_without_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "DATA", tmp_path)
    with pytest.raises(EnvironmentFault, match="is not in this installation"):
        open_source(NAME)


def test_the_model_in_this_package_is_whole(monkeypatch):
    monkeypatch.undo()
    folder = find_pipeline(NAME)
    assert read_benchmark(folder).world == "small"
    assert open_source(NAME).model.base == "flux2"
    stored = [p for p in folder.rglob("*") if p.is_file()]
    assert not [p.name for p in stored if p.suffix in (".bin", ".pt", ".py", ".pkl")]
    assert sum(p.stat().st_size for p in stored) < 50_000_000


@pytest.mark.heavy
@pytest.mark.parametrize("pack", shipped.PACKS)
def test_the_packs_in_this_package_paint_what_is_asked(pack, monkeypatch):
    """One caption of each category, by both runners: the same pictures, and nearly all right."""
    pytest.importorskip("mlx_lm")
    monkeypatch.undo()
    pipeline = locate(pack)
    benchmark = read_benchmark(pipeline.folder)
    task = make_task(benchmark, "test", per_category=1, images=1, seed=0)
    settings = benchmark.settings
    by = {name: paint(open_runner(pipeline, name), task.texts, task.seeds, settings).pictures
          for name in ("torch", "mlx")}  # fmt: skip
    assert min(psnr(a, b) for a, b in zip(by["torch"], by["mlx"], strict=True)) >= LEAST_PSNR
    for pictures in by.values():
        small = shrink(pictures, scenery(benchmark).pixels)[:, None]
        assert judge(small, task.prompts, scenery(benchmark)).passed.sum() >= 5


def test_weights_of_the_package_are_not_ignored():
    # The wheel leaves out what .gitignore names.
    from pathlib import Path

    lines = (Path(__file__).parents[2] / ".gitignore").read_text().splitlines()
    assert lines.index("!bonsai_quant/data/**/*.safetensors") > lines.index("*.safetensors")


def test_a_damaged_copy_is_refused(standin, tmp_path, monkeypatch, run):
    shutil.copytree(standin, tmp_path / NAME)
    weights = tmp_path / NAME / "transformer/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    monkeypatch.setattr(shipped, "DATA", tmp_path)
    assert run("plan", NAME, "--mode", "ternary").code == 3
