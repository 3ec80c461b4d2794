"""A trained pack says how it was made, and who types what it says gets that pack."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bonsai_quant import calibrate, convert, distill, export, fold, inspect, recover, report
from bonsai_quant.packs.card import render_card
from bonsai_quant.packs.find import look
from bonsai_quant.packs.manifest import Manifest
from bonsai_quant.packs.read import open_pack
from bonsai_quant.packs.rebuild import rebuild
from bonsai_quant.publishing.report.survey import survey

WEIGHTS = "bonsai/model.safetensors"
TRAINING = {"steps": 2, "batch": 4, "at_once": 4, "validate_every": 2, "checkpointing": False}
RECIPE = {"mode": "ternary", "solver": "gptq", "calibration": {"n_prompts": 2, "at_once": 4},
          "distillation": TRAINING}  # fmt: skip


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(json.dumps(RECIPE))
    return path


@pytest.fixture(scope="module")
def recovered(standin, recipe, few, tmp_path_factory):
    """The stand-in, calibrated, rounded and trained, with a seed of its own."""
    out = tmp_path_factory.mktemp("recovered") / "packs"
    return recover(str(standin), recipe=recipe, out=out, prompts=str(few), formats="bonsai", seed=3)


def manifest_of(folder: Path) -> Manifest:
    return Manifest.model_validate(json.loads((folder / "bonsai/manifest.json").read_text()))


def commands(manifest: Manifest, place: str) -> list[list[str]]:
    return [line.split() for line in rebuild(manifest, place).splitlines()]


def test_the_manifest_of_a_recovered_pack_tells_every_stage(recovered, standin):
    manifest = manifest_of(recovered.packs.out)
    record = manifest.provenance
    assert [s.stage for s in record.stages] == ["calibration", "rounding", "training"]
    calibration, rounding, training = record.stages
    source = json.loads((recovered.between[0] / "calibration.json").read_text())["source"]
    assert {f.name: f.sha256 for f in record.source.files} == source
    assert manifest.source.files[0].sha256 not in source.values()
    assert (calibration.n_prompts, calibration.at_once, calibration.seed) == (2, 4, 3)
    assert calibration.prompts.file == training.prompts.file == "few.txt"
    assert rounding.recipe["solver"] == "gptq"
    assert (training.updates, training.batch, training.seed) == (2, 4, 3)
    assert training.held_out["step"] == 2 and training.start
    assert training.compute.device == "cpu" and training.compute.threads > 0
    assert record.recovery == training.recipe
    assert record.recovery.content == RECIPE


def test_the_errors_are_those_against_the_first_source(recovered, standin):
    """The last step loses nothing; the weights are as far from the source's as they are."""
    from tests.support.weights import decoded, of_source

    manifest = manifest_of(recovered.packs.out)
    packed, stored = decoded(recovered.packs.out / "bonsai"), of_source(standin)
    errors = {n: float(((w - stored[n]) ** 2).sum() / (stored[n] ** 2).sum()) ** 0.5
              for n, w in packed.items()}  # fmt: skip
    assert manifest.measured.lossless
    assert manifest.provenance.layers == pytest.approx(errors, abs=2e-6)
    square = sum(((w - stored[n]) ** 2).sum() for n, w in packed.items())
    whole = float(square / sum((stored[n] ** 2).sum() for n in packed)) ** 0.5
    assert manifest.provenance.relative_error == pytest.approx(whole, abs=1e-6)
    assert whole > 0.1


def test_steps_by_hand_tell_the_same(recovered, standin, recipe, few, tmp_path):
    """calibrate, convert, distill, convert: what recover says, but for who typed it."""
    options = {"prompts": str(few), "seed": 3}
    calibrate(str(standin), mode="ternary", solver="gptq", n_prompts=2, at_once=4,
              out=tmp_path / "c", **options)  # fmt: skip
    convert(str(standin), mode="ternary", solver="gptq", calibration=tmp_path / "c",
            formats="bonsai", out=tmp_path / "r")  # fmt: skip
    distill(str(standin), recipe=recipe, start=tmp_path / "r", out=tmp_path / "t", **options)
    convert(str(tmp_path / "t"), mode="ternary", formats="bonsai", out=tmp_path / "p")
    mine, theirs = manifest_of(tmp_path / "p"), manifest_of(recovered.packs.out)
    assert mine.provenance.recovery is None
    assert (tmp_path / "p" / WEIGHTS).read_bytes() == (recovered.packs.out / WEIGHTS).read_bytes()
    for a, b in zip(mine.provenance.stages, theirs.provenance.stages, strict=True):
        skip = {"sha256", "start", "recipe"}
        assert a.model_dump(exclude=skip) == b.model_dump(exclude=skip)
    assert mine.provenance.layers == theirs.provenance.layers
    names = [words[1] for words in commands(mine, "X") if words[0] == "bonsai-quant"]
    assert names == ["calibrate", "convert", "distill", "convert"]
    rounded = manifest_of(tmp_path / "r")
    assert [s.stage for s in rounded.provenance.stages] == ["calibration", "rounding"]
    assert rounded.provenance.relative_error == rounded.measured.relative_error
    assert [w[1] for w in commands(rounded, "X")] == ["calibrate", "convert"]


def test_a_folded_source_tells_it_too(standin, few, tmp_path):
    calibrate(str(standin), n_prompts=2, prompts=str(few), out=tmp_path / "inputs")
    fold(str(standin), calibration=tmp_path / "inputs", out=tmp_path / "folded")
    convert(str(tmp_path / "folded"), mode="ternary", formats="bonsai", out=tmp_path / "p")
    manifest = manifest_of(tmp_path / "p")
    stages = manifest.provenance.stages
    assert [s.stage for s in stages] == ["calibration", "folding", "rounding"]
    assert manifest.provenance.relative_error is None
    assert [w[1] for w in commands(manifest, "X")] == ["calibrate", "fold", "convert"]


def test_other_weights_than_the_record_is_about_are_not_called_trained(recovered, tmp_path, caplog):
    from safetensors.numpy import load_file, save_file

    trained = Path(shutil.copytree(recovered.between[-1], tmp_path / "trained"))
    path = trained / "transformer/diffusion_pytorch_model.safetensors"
    save_file(load_file(path), path, {"format": "pt", "by": "somebody else"})
    made = convert(str(trained), mode="ternary", formats="bonsai", out=tmp_path / "p")
    assert made.manifests["bonsai"].provenance is None
    assert "other weights" in caplog.text


def test_a_record_that_is_none_is_refused(recovered, tmp_path, run):
    trained = Path(shutil.copytree(recovered.between[-1], tmp_path / "trained"))
    path = trained / "distillation.json"
    record = json.loads(path.read_text())
    record["provenance"]["stages"][2]["updates"] = "many"
    path.write_text(json.dumps(record))
    result = run("convert", trained, "--mode", "ternary", "-o", tmp_path / "p")
    assert (result.code, "updates" in result.err) == (3, True)


def test_a_pack_that_was_only_rounded_has_the_manifest_of_before(tiny, tmp_path):
    convert(str(tiny), mode="ternary", formats="bonsai", out=tmp_path / "p")
    assert '"provenance"' not in (tmp_path / "p/bonsai/manifest.json").read_text()


def test_training_with_other_options_than_a_recipe_s_is_written_out(standin, recipe, few, tmp_path):
    made = distill(str(standin), recipe=recipe, out=tmp_path / "t", prompts=str(few),
                   changes={"steps": 1})  # fmt: skip
    convert(str(made.out), mode="ternary", formats="bonsai", out=tmp_path / "p")
    manifest = manifest_of(tmp_path / "p")
    text = rebuild(manifest, str(standin))
    assert "steps: 1" in text and "--recipe recipe.yaml" in text
    assert manifest.provenance.training.recipe.content["distillation"]["batch"] == 4


def test_reports_and_inspect_tell_the_errors_against_the_first_source(recovered):
    folder = recovered.packs.out / "bonsai"
    record = manifest_of(recovered.packs.out).provenance
    layers = survey(open_pack(look(folder))).layers
    assert {s.name: s.relative_error for s in layers} == record.layers
    facts = dict(inspect(folder)[0].facts)
    assert facts["relative error"] == f"{record.relative_error:.4f}"
    assert facts["solver"] == "calibration, then rounding, then training"
    assert facts["pictures"].startswith("trained for 2 updates")


def test_a_card_of_a_trained_pack_does_not_say_that_it_equals_its_source(recovered):
    card = (recovered.packs.out / "bonsai/README.md").read_text()
    record = manifest_of(recovered.packs.out).provenance
    assert f"against the weights of the source: {record.relative_error:.4f}" in card
    assert "does not make the pack equal to its source" in card
    assert "lay on the grid already" not in card and "solver | `exact`" not in card
    assert f"torch {record.training.compute.torch}" in card
    assert record.recovery.sha256 in card and "few.txt" in card


def test_a_note_takes_the_place_of_the_promise(recovered):
    manifest = manifest_of(recovered.packs.out)
    record = manifest.provenance.model_copy(update={"note": "It was long ago."})
    card = render_card(manifest.model_copy(update={"provenance": record}))
    assert "It was long ago." in card and "It was made by these commands" in card
    assert "The same codes and scales come out of" not in card


def test_export_carries_it_on(recovered, tmp_path):
    export(recovered.packs.out, format="unpacked", out=tmp_path / "dense")
    text = (tmp_path / "dense/manifest.json").read_text()
    first = manifest_of(recovered.packs.out)
    assert Manifest.model_validate_json(text).provenance == first.provenance


def block_of(card: str) -> str:
    """The commands of a card: the fenced block behind the words that announce it."""
    return re.search(r"come out of\n\n```bash\n(.*?)\n```", card, re.S)[1]


@pytest.mark.slow
@pytest.mark.parametrize("by", ["card", "page"])
def test_who_types_what_the_card_says_gets_that_pack(by, recipe, few, tmp_path):
    """mini-klein by a small recipe, and again in a fresh folder from the text alone."""
    made = recover("mini-klein", recipe=recipe, out=tmp_path / "first", prompts=str(few),
                   formats="bonsai")  # fmt: skip
    if by == "card":
        text = block_of((made.packs.out / "bonsai/README.md").read_text())
    else:
        report(made.packs.out, out=tmp_path / "report")
        page = (tmp_path / "report/report.html").read_text()
        text = html.unescape(re.search(r"<pre>(cat &gt; small\.yaml .*?)</pre>", page, re.S)[1])
    fresh = tmp_path / "fresh"
    (fresh / "bin").mkdir(parents=True)
    shutil.copy(few, fresh)  # the card names it, and the sha256 of what was read of it
    program = fresh / "bin" / "bonsai-quant"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m bonsai_quant "$@"\n')
    program.chmod(0o755)
    path = {"PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": ":".join(sys.path)}
    subprocess.run(["bash", "-e", "-c", text], cwd=fresh, env=os.environ | path, check=True)
    again = fresh / "packs"
    assert (again / WEIGHTS).read_bytes() == (made.packs.out / WEIGHTS).read_bytes()
    assert manifest_of(again) == manifest_of(made.packs.out)
