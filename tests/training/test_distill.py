"""Distillation: what is trained is what is stored, it can be stopped, and cut among processes."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from bonsai_quant import convert, distill, recover, score, verify
from bonsai_quant.core.errors import BadInput, EnvironmentFault, OutputExists, UsageError
from bonsai_quant.evaluation.scenes.grammar import prompts as captions_of
from bonsai_quant.evaluation.task import scenery
from bonsai_quant.packs.pipeline import locate
from bonsai_quant.quantization.solvers import solve
from bonsai_quant.training import checkpoint
from bonsai_quant.training.distill.curves import Curve, draw
from bonsai_quant.training.distill.ema import EMA
from bonsai_quant.training.distill.freeze import Freeze
from bonsai_quant.training.distill.latent_linear import LatentLinear, attach, nearest, rounded
from bonsai_quant.training.settings import DistillationSettings
from bonsai_quant.training.trajectories.prompts import SHIPPED, choose_prompts
from bonsai_quant.training.write_pipeline import WEIGHTS
from tests.support import warm

from .conftest import SETTINGS
from .processes import start, start_two

pytestmark = pytest.mark.heavy

MODES = ("ternary", "binary")


def losses(folder: Path) -> list[float]:
    return [float(r["loss"]) for r in csv.DictReader((folder / "curve.csv").open())]


@pytest.mark.parametrize("mode", MODES)
def test_latent_weights_are_rounded_as_the_exact_solver_does(mode):
    torch.manual_seed(0)
    weight = torch.randn(64, 512) * torch.rand(64, 1)
    mine = rounded(weight, mode)
    solved = solve(weight.numpy(), "exact", mode)
    best = float(np.sqrt(solved.sums[:, 1].sum() / solved.sums[:, 0].sum()))
    found = float((weight - mine).norm() / weight.norm())
    assert best - 1e-6 <= found <= best * 1.001


@pytest.mark.parametrize("mode", MODES)
def test_rounding_what_is_rounded_changes_nothing(mode):
    weight = rounded(torch.randn(8, 256), mode)
    assert torch.equal(rounded(weight, mode), weight)
    assert torch.equal(weight.bfloat16().float(), weight)
    codes, scales = nearest(weight, mode)
    assert set(codes.unique().tolist()) <= {-1.0, 0.0, 1.0}
    assert (scales >= 2.0**-14).all()


@pytest.mark.parametrize("mode", MODES)
def test_the_gradient_goes_straight_through(mode):
    weight = nn.Parameter(torch.randn(4, 128))
    x = torch.randn(3, 128)
    layer = LatentLinear(weight, mode)
    y = layer(x)
    torch.testing.assert_close(y, x @ rounded(weight.detach(), mode).T)
    y.sum().backward()
    torch.testing.assert_close(weight.grad, x.sum(0).expand(4, 128))


def test_the_average_is_what_its_equation_says():
    model = nn.Linear(2, 1, bias=False)
    model.weight.data[:] = torch.tensor([[0.0, 0.0]])
    average = EMA(model, 0.9)
    said = 0.0
    for step in range(1, 30):
        model.weight.data[:] = float(step)
        average.update()
        decay = min(0.9, (1 + step) / (10 + step))
        said = decay * said + (1 - decay) * step
    assert average.values["weight"].tolist() == [[pytest.approx(said)] * 2]
    with average.swapped_in():
        assert float(model.weight.detach()[0, 0]) == pytest.approx(said)
    assert float(model.weight.detach()[0, 0]) == 29


def test_codes_that_jump_are_held_at_their_average():
    model = nn.Sequential(nn.Linear(128, 2, bias=False))
    model[0].weight.data[:] = torch.linspace(0.5, 1.5, 128)
    attach(model, {"0": "binary"})
    average = EMA(model, 0.5)
    freeze = Freeze(model, average)
    for step in range(40):
        with torch.no_grad():
            model[0].weight[0, 5] = 0.1 if step % 2 else -0.3
        average.update()
        freeze.hold()
    assert freeze.share() == pytest.approx(1 / 256)
    assert model[0].weight[0, 5] == average.values["0.weight"][0, 5]
    before = float(model[0].weight[0, 5].detach())
    assert before not in (0.1, -0.3)


def test_what_comes_out_is_on_the_grid(whole, standin, tmp_path):
    from diffusers import Flux2KleinPipeline

    made = convert(str(whole.out), mode="ternary", formats="bonsai", out=tmp_path / "packs")
    measured = made.manifests["bonsai"].measured
    assert measured.relative_error == 0
    assert measured.kept_inexact == 0
    assert all(s.relative_error == 0 for s in made.layers if s.action == "ternary")
    pipe = Flux2KleinPipeline.from_pretrained(whole.out, dtype=torch.float32)
    assert pipe.transformer.config.in_channels == 64
    before = load_file(standin / WEIGHTS)
    after = load_file(whole.out / WEIGHTS)
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[n], after[n]) for n in after if "mod" in n)
    assert sum(not torch.equal(before[n], after[n]) for n in after) > 30


def test_training_lowers_the_error_on_held_out_prompts(standin, few, tmp_path):
    changes = SETTINGS | {"steps": 30, "exam": 30, "batch": 16, "at_once": 16, "freeze": 0.1}
    made = distill(
        str(standin), mode="ternary", out=tmp_path / "out", prompts=str(few), changes=changes
    )
    rows = list(csv.DictReader((made.out / "held_out.csv").open()))
    assert float(rows[-1]["error"]) < 0.7 * float(rows[0]["error"])
    assert made.record["held_out"]["error"] == pytest.approx(float(rows[-1]["error"]), rel=1e-4)


def test_the_curves_are_there_to_look_at(whole):
    from PIL import Image

    assert len(losses(whole.out)) == 6
    assert Image.open(whole.out / "curve.png").size == (960, 540)
    rows = list(csv.DictReader((whole.out / "held_out.csv").open()))
    assert [int(float(r["step"])) for r in rows] == [0, 3, 6]


def test_the_legend_has_every_line():
    curve, held_out = Curve(), Curve()
    for step in (0, 10):
        curve.add(step, loss=1.0)
        held_out.add(step, error=0.5, score=0.7)
    figure = draw(curve, held_out)
    lines = {line.get_label() for axes in figure.axes for line in axes.lines}
    (legend,) = figure.legends
    assert {text.get_text() for text in legend.texts} == lines == {"loss", "held out", "score"}


def test_a_curve_forgets_what_comes_after_a_checkpoint():
    curve = Curve()
    for step in (10, 20, 30):
        curve.add(step, loss=1 / step)
    assert [r["step"] for r in Curve(curve.text(), until=20).rows] == [10, 20]


def killed_after_checkpoint(out: Path, *processes: warm.Process) -> int:
    """Kill without warning as soon as there is a checkpoint; -> its step."""
    state, until = out.parent / f".{out.name}.staging" / "state", time.monotonic() + 240
    while checkpoint.saved_step(state) is None:
        assert all(p.poll() is None for p in processes), [p.communicate() for p in processes]
        assert time.monotonic() < until
        time.sleep(0.02)
    for process in processes:
        process.kill()
        process.communicate()
    return checkpoint.saved_step(state)


def assert_same(whole, out: Path) -> None:
    torch.testing.assert_close(
        torch.tensor(losses(out)), torch.tensor(losses(whole.out)), rtol=5e-3, atol=0
    )
    mine, theirs = (load_file(p / WEIGHTS) for p in (out, whole.out))
    same = [float((mine[n] == theirs[n]).float().mean()) for n in mine]
    assert np.mean(same) > 0.98


def test_a_killed_run_goes_on(whole, standin, recipe, few, tmp_path):
    out = tmp_path / "out"
    arguments = [str(standin), "--recipe", str(recipe), "--prompts", str(few), "-o", str(out)]
    step = killed_after_checkpoint(out, start([*arguments, "--save-every", "0"]))
    assert 0 < step <= 6
    assert not out.exists()
    with pytest.raises(OutputExists, match=f"lies there: a checkpoint of update {step} of 6"):
        distill(str(standin), recipe=recipe, out=out, prompts=str(few))
    made = distill(str(standin), recipe=recipe, out=out, prompts=str(few), resume=True)
    assert made.record == whole.record | {"held_out": made.record["held_out"]}
    assert_same(whole, out)
    assert not (tmp_path / ".out.staging").exists()


def test_two_processes_train_as_one_does(whole, standin, recipe, few, tmp_path):
    out = tmp_path / "out"
    arguments = [str(standin), "--recipe", str(recipe), "--prompts", str(few), "-o", str(out)]
    for process in start_two(arguments):
        _, said = process.communicate()
        assert process.returncode == 0, said
    assert_same(whole, out)


@pytest.mark.slow
def test_torchrun_starts_them(whole, standin, recipe, few, tmp_path):
    out = tmp_path / "out"
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    arguments = [str(standin), "--recipe", str(recipe), "--prompts", str(few), "-o", str(out)]
    paths = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([*run, "-m", "bonsai_quant", "distill", *arguments], env=os.environ | paths,
                   check=True)  # fmt: skip
    assert_same(whole, out)


def test_one_process_goes_on_where_two_were_stopped(whole, standin, recipe, few, tmp_path):
    out = tmp_path / "out"
    arguments = [str(standin), "--recipe", str(recipe), "--prompts", str(few), "-o", str(out)]
    killed_after_checkpoint(out, *start_two([*arguments, "--save-every", "0"]))
    distill(str(standin), recipe=recipe, out=out, prompts=str(few), resume=True)
    assert_same(whole, out)


def test_a_resumed_run_must_be_the_same(standin, recipe, few, tmp_path):
    out = tmp_path / "out"
    arguments = [str(standin), "--recipe", str(recipe), "--prompts", str(few), "-o", str(out)]
    killed_after_checkpoint(out, start([*arguments, "--save-every", "0"]))
    with pytest.raises(OutputExists, match="had another source, recipe"):
        distill(str(standin), recipe=recipe, out=out, prompts=str(few), resume=True, seed=1)


def test_recover_goes_from_a_source_to_packs(standin, recipe, few, tmp_path):
    made = recover(
        str(standin), recipe=recipe, out=tmp_path / "packs", prompts=str(few), formats="bonsai,mlx"
    )
    assert made.packs.manifests["mlx"].measured.lossless
    assert made.between == (tmp_path / "packs-trained",)
    again = recover(
        str(standin), recipe=recipe, out=tmp_path / "more", prompts=str(few), formats="bonsai"
    )
    weights = [p / "bonsai" / "model.safetensors" for p in (made.packs.out, again.packs.out)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_the_other_parts_of_a_trained_pack_are_found(shipped, recipe, few, tmp_path):
    recover("mini-klein", recipe=recipe, out=tmp_path / "packs", prompts=str(few), formats="bonsai")
    pipeline = locate(str(tmp_path / "packs"))
    assert pipeline.pack.manifest.source.origin == "mini-klein"
    assert pipeline.folder == shipped


def test_no_held_out_caption_is_learned_from(standin):
    chosen = choose_prompts(locate(str(standin)), None)
    from bonsai_quant.runners.picture_settings import read_benchmark

    world = scenery(read_benchmark(standin))
    tested = {p.text for s in ("test", "dev") for p in captions_of(world, s, per_category=300)}
    assert not tested & set(chosen.used)
    assert set(chosen.held) <= tested
    assert len(chosen.used) == 3600


def test_a_file_of_prompts_is_split(standin, tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("\n".join(f"prompt {i}" for i in range(100)) + "\nprompt 1\n")
    chosen = choose_prompts(locate(str(standin)), path)
    assert len(chosen.used) == 94
    assert len(chosen.held) == 6
    assert not set(chosen.used) & set(chosen.held)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "distillation: steps"),
        ({"rate": "fast"}, "distillation: rate"),
        ({"rates": 1}, "distillation: rates"),
        ({"own": [0.1]}, "distillation: own"),
    ],
)
def test_wrong_settings_are_named(standin, tmp_path, settings, message):
    path = tmp_path / "r.yaml"
    path.write_text(json.dumps({"mode": "ternary", "distillation": settings}))
    with pytest.raises(UsageError, match=message):
        distill(str(standin), recipe=path, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_of_another_number_of_steps(standin, few, tmp_path):
    with pytest.raises(UsageError, match="weights has 2 numbers, and the sampler takes 4"):
        distill(
            str(standin), mode="ternary", out=tmp_path / "out", prompts=str(few),
            changes=SETTINGS | {"weights": (1.0, 2.0)},
        )  # fmt: skip


def test_a_rate_that_breaks_the_model_is_told(standin, few, tmp_path):
    changes = SETTINGS | {"rate": 1.0, "kept_rate": 1.0, "steps": 60, "exam": 60}
    with pytest.raises(UsageError, match=r"the loss of update \d+ is .*come apart"):
        distill(str(standin), mode="ternary", out=tmp_path / "out", prompts=str(few),
                changes=changes)  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_a_recipe_that_trains_is_not_for_convert(standin, recipe, tmp_path):
    with pytest.raises(UsageError, match="also trains") as e:
        convert(str(standin), recipe=recipe, out=tmp_path / "out")
    assert "recover" in e.value.hint


def test_a_recipe_that_does_not_train_is_not_for_recover(standin, tmp_path):
    with pytest.raises(UsageError, match="only rounds"):
        recover(str(standin), recipe="klein-4b-ternary", out=tmp_path / "out")


def test_a_pack_has_nothing_to_learn_from(standin_packs, standin, recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("bonsai_quant.sources.shipped.DATA", standin.parent)
    with pytest.raises(UsageError):
        distill(str(standin_packs / "bonsai"), recipe=recipe, out=tmp_path / "out")


def test_too_little_memory_is_told_before_anything_is_loaded(standin, recipe, few, tmp_path):
    with pytest.raises(EnvironmentFault, match=r"[MG]B are needed on each device .* torchrun"):
        distill(
            str(standin), recipe=recipe, out=tmp_path / "out", prompts=str(few), max_memory=10**6
        )


def test_prompts_that_are_none(standin, recipe, tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("one\n\n")
    with pytest.raises(BadInput, match="fewer than two prompts"):
        distill(str(standin), recipe=recipe, out=tmp_path / "out", prompts=str(path))


def test_rates_rise_and_fall():
    settings = DistillationSettings(steps=100, warm=0.1, fall=0.5, own=(0.2, 0.8), freeze=0.1)
    assert [settings.rate_share(s) for s in (0, 9, 49, 99)] == pytest.approx([0.1, 1.0, 1.0, 0.02])
    assert settings.own_share(0) == 0.2
    assert settings.own_share(99) == pytest.approx(0.8)
    assert not settings.freezes(89)
    assert settings.freezes(90)


@pytest.mark.parametrize("mode", MODES)
def test_the_recovered_packs_that_ship(mode, run):
    name = f"mini-klein-{mode}"
    assert not verify(name).failed
    pipeline = locate(name)
    assert pipeline.pack.info.mode == mode
    assert pipeline.folder.name == "mini-klein"
    assert pipeline.pack.manifest.measured.relative_error == 0
    assert score(name, prompts=3, images=1).model.overall.score.value > 0.6
    assert name in run("inspect", name).out


def test_our_prompts_are_many_and_different():
    lines = SHIPPED.read_text().splitlines()
    assert len(lines) == len(set(lines)) >= 2000
    counting = sum(any(f"{n} " in line for n in ("two", "three", "four", "five")) for line in lines)
    assert counting > 500
