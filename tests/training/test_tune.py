"""Tuning changes scales and kept tensors, and no code."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from bonsai_quant import convert, distill, recover, tune
from bonsai_quant.core.errors import BadInput, UsageError
from bonsai_quant.core.schema import GROUP
from bonsai_quant.packs.read import open_pack
from bonsai_quant.packs.rebuild import rebuild
from bonsai_quant.quantization.dequantize import weights
from bonsai_quant.quantization.solvers import solve
from bonsai_quant.training.distill import needed
from bonsai_quant.training.distill.coded_linear import CodedLinear, coded_transformer
from bonsai_quant.training.rungs import choose_rungs
from bonsai_quant.training.tune import prepare

pytestmark = pytest.mark.heavy

CHANGES = {
    "steps": 4,
    "batch": 8,
    "at_once": 8,
    "validate_every": 4,
    "checkpointing": False,
    "rate": 0.02,
}


@pytest.fixture(scope="module", params=["ternary", "binary"])
def start(request, standin, tmp_path_factory):
    """A pack, rounded to the exact optimum."""
    out = tmp_path_factory.mktemp(request.param) / "packs"
    convert(str(standin), mode=request.param, formats="bonsai", out=out)
    return out / "bonsai"


@pytest.fixture(scope="module")
def tuned(start, standin, few, tmp_path_factory):
    """The result, and the pack that is made of it."""
    folder = tmp_path_factory.mktemp("tuned")
    made = tune(
        str(standin), start=start, out=folder / "out", prompts=str(few), changes=CHANGES, seed=1
    )
    mode = open_pack(start).info.mode
    convert(str(made.out), mode=mode, formats="bonsai", out=folder / "packs")
    return made, folder / "packs" / "bonsai"


def test_codes_stay_and_all_else_changes(start, tuned):
    before, after = open_pack(start), open_pack(tuned[1])
    for tensor in before.info.packed:
        old, new = before.layer(tensor), after.layer(tensor)
        np.testing.assert_array_equal(old.codes, new.codes)
        assert (old.scales != new.scales).mean() > 0.05
        assert np.abs(np.log(new.scales.astype(float) / old.scales)).max() < 0.1
    changed = [(before.kept(t) != after.kept(t)).any() for t in before.info.kept]
    assert sum(changed) > 5  # norms of ones need more than four updates


def test_untrained_it_is_the_pack_to_the_bit(start):
    pack = open_pack(start)
    model = coded_transformer(pack)
    for tensor in pack.info.packed:
        layer = model.get_submodule(tensor.linear)
        stored = layer.stored(layer.log_scales.detach())
        np.testing.assert_array_equal(stored.float().numpy(), weights(pack.layer(tensor)))


def test_gradients_are_those_of_the_formula():
    """dL/dx and dL/dl of y = x (exp(l) t)', by torch's own rules on dense weights."""
    random = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 256, (24, 2 * GROUP // 4), generator=random, dtype=torch.uint8)
    codes &= 0b10101010  # codes 0 and 2
    scales = torch.rand(24, 2, generator=random) + 0.5
    layer = CodedLinear(codes, scales, 2, "ternary")
    x = torch.randn(3, 5, 2 * GROUP, generator=random, requires_grad=True)
    wanted = torch.randn(3, 5, 24, generator=random)
    (layer(x) * wanted).sum().backward()
    log_scales = scales.log().requires_grad_()
    t = torch.from_numpy(np.stack([(codes.numpy() >> s) & 3 for s in (0, 2, 4, 6)], -1)) - 1.0
    weight = (log_scales.exp()[..., None] * t.view(24, 2, GROUP)).flatten(1)
    again = x.detach().requires_grad_()
    (torch.nn.functional.linear(again, weight) * wanted).sum().backward()
    torch.testing.assert_close(x.grad, again.grad)
    torch.testing.assert_close(layer.log_scales.grad, log_scales.grad)


def test_the_record_and_the_commands_say_tune(start, tuned, standin):
    made, pack = tuned
    mode = open_pack(start).info.mode
    assert made.record["mode"] == mode
    assert made.record["held_out"]["step"] == 4
    manifest = open_pack(pack).manifest
    assert [s.stage for s in manifest.provenance.stages] == ["rounding", "training"]
    assert manifest.provenance.stages[-1].kind == "tuning"
    lines = [line.split() for line in rebuild(manifest, "mini-klein").splitlines()]
    tuning = next(line for line in lines if line[1:2] == ["tune"])
    assert tuning[2:4] == ["mini-klein", "--recipe"]
    assert tuning[tuning.index("--start") + 1] == "rounded"
    assert lines[-1][1:3] == ["convert", "tuned"]


def test_it_refuses_what_does_not_belong_together(start, standin, tmp_path, standin_packs):
    other = {"ternary": "binary", "binary": "ternary"}[open_pack(start).info.mode]
    recipe = tmp_path / "other.yaml"
    recipe.write_text(json.dumps({"mode": other, "tuning": {"steps": 2}}))
    with pytest.raises(UsageError, match=f"is for {other} packs"):
        prepare(str(standin), start=start, recipe=recipe)
    with pytest.raises(UsageError, match="is a pack"):
        prepare("mini-klein-ternary", start=start)
    with pytest.raises(BadInput, match="same layers packed"):
        prepare("mini-klein", start=start)
    with pytest.raises(UsageError, match="freeze"):
        prepare(str(standin), start=start, changes={"freeze": 0.5})


def test_memory_is_counted(start, standin):
    """What is certain of it: the parts that are tensors."""
    job = prepare(str(standin), start=start, changes=CHANGES)
    parts, model = needed(job, 1, half=False), coded_transformer(open_pack(start))
    trained = sum(4 * p.numel() for p in model.parameters())
    codes = sum(b.numel() for b in model.buffers() if b.dtype == torch.uint8)
    assert parts["scales and kept tensors, float32"] == trained
    assert parts["Adam's two moments"] == 2 * trained
    assert parts["codes"] == codes


def test_recover_tunes_between_rounding_and_distilling(standin, few, tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(json.dumps({
        "mode": "binary", "solver": "gptq", "calibration": {"n_prompts": 2},
        "tuning": CHANGES | {"steps": 2, "validate_every": 2},
        "distillation": CHANGES | {"steps": 2, "validate_every": 2},
    }))  # fmt: skip
    made = recover(
        str(standin), recipe=recipe, out=tmp_path / "packs", prompts=str(few), formats="bonsai"
    )
    names = ["calibration", "rounded", "tuned", "tuned-pack", "trained"]
    assert [p.name for p in made.between] == [f"packs-{n}" for n in names]
    rounded, tuned = (open_pack(made.between[i] / "bonsai") for i in (1, 3))
    for tensor in rounded.info.packed:
        np.testing.assert_array_equal(rounded.layer(tensor).codes, tuned.layer(tensor).codes)
    record = made.packs.manifests["bonsai"].provenance
    stages = [(s.stage, getattr(s, "kind", "")) for s in record.stages]
    assert stages == [("calibration", ""), ("rounding", ""), ("training", "tuning"),
                      ("training", "distillation")]  # fmt: skip


def test_the_commands_of_all_rungs_lead_from_pack_to_pack(standin, few, tmp_path):
    """Each rung as a command of its own: what is distilled begins with the tuned pack."""
    place, common = str(standin), {"prompts": str(few)}
    convert(place, mode="ternary", formats="bonsai", out=tmp_path / "rounded")
    tune(place, start=tmp_path / "rounded" / "bonsai", out=tmp_path / "tuned",
         changes=CHANGES | {"steps": 1, "validate_every": 1}, **common)  # fmt: skip
    convert(str(tmp_path / "tuned"), mode="ternary", formats="bonsai", out=tmp_path / "again")
    distill(place, mode="ternary", start=tmp_path / "again", out=tmp_path / "trained",
            changes=CHANGES | {"steps": 1, "validate_every": 1}, **common)  # fmt: skip
    last = convert(str(tmp_path / "trained"), mode="ternary", formats="bonsai", out=tmp_path / "x")
    lines = [line.split() for line in rebuild(last.manifests["bonsai"], "S").splitlines()]
    words = [line[1:3] for line in lines if line[:1] == ["bonsai-quant"]]
    assert words == [["convert", "S"], ["tune", "S"], ["convert", "tuned"], ["distill", "S"],
                     ["convert", "trained"]]  # fmt: skip


@pytest.mark.parametrize("mode", ["ternary", "binary"])
def test_rungs_are_taken_as_long_as_they_fit(mode, monkeypatch):
    monkeypatch.setattr("bonsai_quant.training.rungs.cost.speed", lambda device: 1e11)
    long = choose_rungs("mini-klein", mode, hours=3, memory=24 << 30)
    assert [r.problem for r in long.rungs] == ["", "", ""]
    assert long.recovery.recipe.solver == "gptq"
    assert long.recovery.distillation.steps == long.rungs[2].updates
    assert long.seconds <= 3 * 3600
    below = sum(r.seconds for r in long.rungs[:2]) / 3600
    short = choose_rungs("mini-klein", mode, hours=below * 1.01, memory=24 << 30)
    assert short.recovery.distillation is None
    assert (short.recovery.tuning is not None, "left" in short.rungs[2].problem) == (True, True)
    little = choose_rungs("mini-klein", mode, hours=3, memory=long.rungs[1].memory - 1)
    assert "may be used" in little.rungs[0].problem  # the program itself is more than that
    assert little.rungs[1].problem == "the rung below it is missing"
    assert (little.recovery.recipe.solver, little.recovery.tuning) == ("exact", None)
    # Without the program's own memory: a distillation that is too large is made to fit.
    monkeypatch.setattr("bonsai_quant.training.rungs.cost.memory", lambda job, sizes: {"all": 1})
    tight = choose_rungs("mini-klein", mode, hours=3, memory=long.rungs[2].memory * 9 // 10)
    assert tight.recovery.distillation.savings == ("8bit-moments",)
    assert tight.rungs[2].memory <= long.rungs[2].memory * 9 // 10


def test_a_group_of_zeros_stays_one():
    """Its scale says nothing, and is trained all the same; the pack of it holds zeros."""
    codes = torch.full((4, 2 * GROUP // 4), 0b10011000, dtype=torch.uint8)
    codes[1, : GROUP // 4] = 0b01010101
    layer = CodedLinear(codes, torch.full((4, 2), 0.25), 2, "ternary")
    stored = layer.stored(layer.log_scales.detach() + 0.1)
    assert not stored[1, :GROUP].any()
    solved = solve(stored.float().numpy(), "exact", "ternary")
    np.testing.assert_array_equal(solved.codes, codes.numpy())
