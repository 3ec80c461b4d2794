"""What is said of a pack's pictures is what was measured of packs that were made like it."""

from __future__ import annotations

import json
import re

import pytest

from bonsai_quant import convert
from bonsai_quant.packs.manifest import Manifest
from bonsai_quant.packs.provenance_record import (
    PromptsRecord,
    ProvenanceRecord,
    RecipeRecord,
    TrainingStage,
)
from bonsai_quant.packs.quality import better, kept_by, kind_of, quality_words
from tests.docs.blocks import ROOT

TRAINING = TrainingStage(
    version="0", mode="ternary", recipe=RecipeRecord(name="r", sha256="0"), settings={},
    updates=1234, batch=8, seed=0, prompts=PromptsRecord(number=2, sha256="0"), start=None,
)  # fmt: skip


@pytest.fixture(scope="module")
def rounded(tiny, tmp_path_factory) -> Manifest:
    out = tmp_path_factory.mktemp("rounded") / "out"
    return convert(str(tiny), mode="ternary", formats="bonsai", out=out).manifests["bonsai"]


def changed(manifest: Manifest, *, lossless: bool = False, **fields) -> Manifest:
    measured = manifest.measured.model_copy(update={"lossless": lossless})
    return manifest.model_copy(update={"measured": measured, **fields})


def by(manifest: Manifest, solver: str, **fields) -> Manifest:
    return changed(manifest, recipe=manifest.recipe | {"solver": solver}, **fields)


def trained(manifest: Manifest, lossless: bool = True) -> Manifest:
    record = ProvenanceRecord(source=manifest.source, stages=[TRAINING])
    return changed(manifest, lossless=lossless, provenance=record)


@pytest.mark.heavy  # loads torch
def test_the_figures_are_those_of_the_benchmark():
    from benchmarks.retention import kept

    results = json.loads((ROOT / "benchmarks/results/retention.json").read_text())
    assert json.loads((ROOT / "bonsai_quant/data/kept.json").read_text()) == kept(results)


def test_the_page_of_the_ladder_begins_with_the_trained_packs():
    text = (ROOT / "docs/quality.md").read_text().partition("## What is measured")[0]
    said = [float(n) for n in re.findall(r"([\d.]+) %", text)]
    shares = [kept_by(mode, "trained").value for mode in ("ternary", "binary")]
    assert said == [round(100 * s, 1) for s in shares]


@pytest.mark.parametrize("page", ["README.md", "docs/how-to/recover.md"])
def test_the_pages_say_the_same_figures(page):
    rows = {"recover": "trained", "calibrat": "gptq", "exact optimum": "exact"}
    text = (ROOT / page).read_text()
    for words, way in rows.items():
        cells = re.search(rf"^\|[^|]*{words}[^|]*\|(.*)\|$", text, re.M)[1].split("|")[-2:]
        for mode, cell in zip(("ternary", "binary"), cells, strict=True):
            said = float(re.search(r"([\d.]+) %", cell)[1])
            assert said == round(100 * kept_by(mode, way).value, 1), (page, words, mode)


def test_each_kind_has_its_own_figure(rounded):
    said = {
        "exact": quality_words(rounded),
        "absmean": quality_words(by(rounded, "absmean")),
        "gptq": quality_words(by(rounded, "gptq", calibration="0" * 64)),
        "trained": quality_words(trained(rounded)),
    }
    for way, words in said.items():
        assert f"kept {100 * kept_by('ternary', way).value:.1f} %" in words, way
        assert "measured on mini-klein" in words
    assert said["exact"].startswith("rounding only")
    assert said["gptq"].startswith("calibrated")
    assert said["trained"].startswith("trained for 1,234 updates")


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"recipe": {"mode": "ternary", "solver": "exact", "layers": [{"match": "x"}]}}, None),
        ({"recipe": {"mode": "ternary", "solver": "of a plugin", "layers": []}}, None),
        ({"lossless": True}, "nothing was rounded"),
        ({"recipe": {"mode": "ternary"}}, "not known"),
    ],
)
def test_what_was_not_measured_has_no_figure(rounded, fields, kind):
    words = quality_words(changed(rounded, **fields))
    assert "%" not in words
    assert (kind or "was not measured") in words


def test_rounding_a_trained_model_again_is_not_training(rounded):
    again = trained(rounded, lossless=False)
    assert kind_of(again) == "rounding only"
    assert "%" not in quality_words(again)


def test_the_better_pack_is_one_that_is_trained(rounded):
    named = rounded.source.model_copy(update={"id": "mini-klein"})
    words = better(rounded.model_copy(update={"source": named}), out="a b").split()
    assert words[:4] == ["bonsai-quant", "recover", "mini-klein", "--recipe"]
    assert words[4] == "mini-klein-ternary"
    assert "klein-4b-ternary-trained" in better(rounded, "my model")
    assert "'my model'" in better(rounded, "my model")
    assert better(trained(rounded)) == ""


def test_convert_says_it_and_the_error_of_weights_only_when_asked(tiny, tmp_path, run):
    typed = ("convert", tiny, "--mode", "binary", "-f", "bonsai")
    said = run(*typed, "-o", tmp_path / "a")
    assert "pictures: rounding only, by the solver exact; measured on mini-klein" in said.out
    assert "for a better pack" in said.out and " recover PIPELINE " in said.out
    assert "relative error" not in said.out
    asked = run(*typed, "-o", tmp_path / "b", "-v")
    assert "does not tell how well a pack paints" in asked.err
    data = json.loads(run(*typed, "-o", tmp_path / "c", "--json").out)
    assert data["pictures"].startswith("rounding only")
    assert data["manifests"]["bonsai"]["measured"]["relative_error"] > 0
