"""`distill --fit`: which savings a memory calls for, that what is counted is there, and that each
saving trains as the plain way does."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from bonsai_quant import distill
from bonsai_quant.core.errors import EnvironmentFault, UsageError
from bonsai_quant.core.requirements import installed
from bonsai_quant.training import checkpoint
from bonsai_quant.training.distill import Budget, DistillationJob, needed, prepare
from bonsai_quant.training.distill.adam_8bit import adam_8bit, moments
from bonsai_quant.training.distill.ema import EMA
from bonsai_quant.training.distill.fit import budget_here, fitted
from bonsai_quant.training.distill.gradient_sums import GradientSums, rounded_by_chance
from bonsai_quant.training.distill.load import load
from bonsai_quant.training.distill.memory_need import in_main_memory
from bonsai_quant.training.distill.run import run
from bonsai_quant.training.distributed import ProcessGroup
from bonsai_quant.training.settings import DistillationSettings
from bonsai_quant.training.trajectories.prompts import choose_prompts
from tests.support.empty_klein import empty_klein

from .conftest import SETTINGS

pytestmark = pytest.mark.heavy

CPU = torch.device("cpu")
ALONE = ProcessGroup(0, 1, CPU)
OFFLOADED = ("teacher-offloaded", "gradients-offloaded", "mean-offloaded")
ROUNDING = ("8bit-moments", "bf16-latents")
needs_bitsandbytes = pytest.mark.skipif(
    installed("bitsandbytes") is None, reason="bitsandbytes is not installed"
)


@pytest.fixture(scope="module")
def klein(standin, tmp_path_factory) -> DistillationJob:
    """A distillation of the real shapes."""
    folder = empty_klein(tmp_path_factory.mktemp("klein") / "klein", standin)
    return prepare(str(folder), mode="ternary", recipe="klein-4b-ternary-trained")


def job_of(standin, few, **changes) -> DistillationJob:
    return prepare(str(standin), mode="ternary", recipe=None, prompts=str(few),
                   changes=SETTINGS | changes)  # fmt: skip


def need(job: DistillationJob, *, half: bool) -> int:
    return sum(needed(job, 1, half=half).values())


def test_klein_fits_into_a_card_of_24_gb(klein):
    job = fitted(klein, Budget(24 * 10**9, 1, half=True))
    assert need(job, half=True) <= 22 * 10**9
    assert set(job.settings.savings) == {*OFFLOADED, *ROUNDING}
    assert job.settings.average  # in main memory
    assert sum(in_main_memory(job, half=True).values()) < 40 * 10**9


def test_a_larger_card_needs_fewer_savings(klein):
    large, middle = (fitted(klein, Budget(n * 10**9, 1, half=True)).settings for n in (120, 48))
    assert large == klein.settings
    assert "bf16-latents" not in middle.savings
    assert middle.freeze == klein.settings.freeze


def test_nothing_is_saved_that_need_not_be(klein):
    budget = Budget(48 * 10**9, 1, half=True)
    job = fitted(klein, budget)
    for name in job.settings.savings:
        rest = tuple(s for s in job.settings.savings if s != name)
        fewer = replace(job, settings=job.settings.model_copy(update={"savings": rest}))
        assert need(fewer, half=True) > budget.device


def test_what_does_not_fit_is_refused_with_what_would(klein):
    with pytest.raises(EnvironmentFault, match=r"not fit into 16\.0 GB: with every saving") as e:
        fitted(klein, Budget(16 * 10**9, 1, half=True))
    assert e.value.hint == "give --fit 20.1GB"
    fitted(klein, Budget(int(20.1e9), 1, half=True))
    with pytest.raises(EnvironmentFault, match=r"main memory, and 8\.00 GB are free"):
        fitted(klein, Budget(24 * 10**9, 1, half=True, main=8 * 10**9))


def test_main_memory_may_want_the_mean_to_go(klein):
    job = fitted(klein, Budget(24 * 10**9, 1, half=True, main=32 * 10**9))
    assert job.settings.average == 0


def test_several_processes_keep_their_optimizer(klein, standin, few):
    job = fitted(klein, Budget(24 * 10**9, 8, half=True))
    assert job.settings.savings == ()
    two = ProcessGroup(0, 2, CPU)
    with pytest.raises(UsageError, match="bf16-latents: these savings are for one process"):
        run(job_of(standin, few, savings=("bf16-latents",)), two, overwrite=False, resume=False,
            save_every=1, max_memory=None, progress=None)  # fmt: skip


def test_records_of_plain_runs_do_not_speak_of_savings():
    plain = DistillationSettings()
    assert "savings" not in plain.model_dump(mode="json", by_alias=True)
    some = plain.model_copy(update={"savings": ("8bit-moments",)})
    assert some.model_dump(mode="json")["savings"] == ["8bit-moments"]


@pytest.mark.parametrize(("at_once", "checkpointing"), [(2, True), (8, False)])
def test_what_is_counted_is_there(at_once, checkpointing, few):
    changes = SETTINGS | {"at_once": at_once, "checkpointing": checkpointing}
    job = prepare("mini-klein", mode="ternary", recipe=None, prompts=str(few), changes=changes)
    check_counted(job)


@needs_bitsandbytes
def test_what_is_counted_is_there_with_every_saving(few):
    job = prepare("mini-klein", mode="ternary", recipe=None, prompts=str(few),
                  budget=Budget(125 * 10**6, 1, half=False), changes=SETTINGS)  # fmt: skip
    assert (job.settings.savings, job.settings.average) == (ROUNDING, 0)
    check_counted(job)


def check_counted(job: DistillationJob) -> None:
    """The tensors that lie there, and what torch's allocator adds while an update is made."""
    trainer, _ = load(job, ALONE, choose_prompts(job.pipeline, job.prompts, 4))
    trainer.update()
    trainer.optimizer.zero_grad()
    held = sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
                for t in tensors(trainer)}.values())  # fmt: skip
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        trainer.update()
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    most = now = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    counted = needed(job, 1, half=False)
    del counted["codes that are watched for jumps"]  # not yet
    assert sum(counted.values()) == pytest.approx(held + most, rel=0.15)


def tensors(trainer):
    for model in (trainer.student, trainer.teacher):
        yield from (*model.parameters(), *model.buffers())
    yield from trainer.ema.values.values()
    for state in trainer.optimizer.state.values():
        yield from (v for v in state.values() if torch.is_tensor(v))


def losses(folder: Path) -> torch.Tensor:
    rows = csv.DictReader((folder / "curve.csv").open())
    return torch.tensor([float(r["loss"]) for r in rows])


def test_what_only_moves_changes_nothing(whole, standin, few, tmp_path):
    made = distill(str(standin), mode="ternary", out=tmp_path / "out", prompts=str(few),
                   changes=SETTINGS | {"savings": OFFLOADED})  # fmt: skip
    torch.testing.assert_close(losses(made.out), losses(whole.out), rtol=1e-4, atol=0)
    assert made.record["settings"]["savings"] == list(OFFLOADED)


@needs_bitsandbytes
def test_what_rounds_learns_as_well_and_goes_on(whole, standin, few, tmp_path):
    """Every saving, with a stop in the middle: the rest is as if it had not been."""
    changes = SETTINGS | {"savings": (*OFFLOADED, *ROUNDING), "at_once": 2, "checkpointing": True}
    job = prepare(str(standin), mode="ternary", recipe=None, prompts=str(few), changes=changes)
    prompts = choose_prompts(job.pipeline, job.prompts, 6)
    first, _ = load(job, ALONE, prompts)
    seen = [first.update() for _ in range(4)]
    checkpoint.write_state(first.state(), 4, tmp_path / "state", first=True, wait=lambda: None)
    seen += [first.update() for _ in range(2)]
    again, _ = load(job, ALONE, prompts)
    again.restore(4, lambda state: checkpoint.read_state(state, tmp_path / "state"))
    assert [again.update() for _ in range(2)] == seen[4:]
    torch.testing.assert_close(torch.tensor(seen), losses(whole.out), rtol=0.05, atol=0)
    latent = again.student.get_submodule("transformer.transformer_blocks.0.attn.to_q").weight
    assert latent.dtype == torch.bfloat16
    assert again.optimizer.state[latent]["state1"].dtype == torch.uint8


def test_sums_give_the_step_that_gradients_give():
    def one(*, sums: bool) -> torch.Tensor:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        taken = GradientSums(model, CPU) if sums else None
        for x in torch.randn(2, 3, 8):
            (100 * model(x)).square().sum().backward()
        if taken is None:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        else:
            assert all(p.grad is None for p in model.parameters())
            taken.apply(optimizer, 1.0, torch.Generator())
            assert not taken.sums
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    torch.testing.assert_close(one(sums=True), one(sums=False), rtol=1e-5, atol=0)


def test_rounding_by_chance_keeps_the_mean():
    rng = torch.Generator().manual_seed(0)
    x = torch.tensor([1.001, -1.001, 3e-5, 0.5, 0.0])
    rounded = torch.stack([rounded_by_chance(x, rng).float() for _ in range(20_000)])
    step = (rounded.amax(0) - rounded.amin(0)).clamp(min=1e-30)
    assert step[3] == step[4] == 1e-30  # what bfloat16 holds stays
    off = (rounded.mean(0) - x).abs()
    assert bool((off <= 5 * step / math.sqrt(20_000)).all())
    assert {*rounded[:, 0].tolist()} == {1.0, 1.0078125}


def test_a_mean_apart_is_the_mean():
    """Of weights in bfloat16, in float32; rounded only where it stands in their place."""
    model = nn.Linear(4, 1, bias=False).bfloat16()
    apart, decay = EMA(model, 0.9, CPU), 0.9
    said = model.weight.detach().float()
    for step in range(1, 6):
        model.weight.data += 1
        apart.update()
        now = min(decay, (1 + step) / (10 + step))
        said = now * said + (1 - now) * model.weight.detach().float()
    torch.testing.assert_close(apart.values["weight"], said)
    before = model.weight.detach().clone()
    with apart.swapped_in():
        assert torch.equal(model.weight.detach(), said.bfloat16())
    assert torch.equal(model.weight.detach(), before)


@needs_bitsandbytes
@pytest.mark.parametrize("n", [64, 96])
def test_moments_in_8_bits_take_what_is_counted(n):
    layer = nn.Linear(n, n // 2 + 32, bias=False)
    optimizer = adam_8bit([{"params": [layer.weight]}], lr=1e-3)
    layer(torch.randn(2, n)).sum().backward()
    optimizer.step()
    state = optimizer.state[layer.weight]
    parts = ("state1", "state2", "absmax1", "absmax2")
    assert moments(layer.weight.numel()) == sum(state[k].nbytes for k in parts if k in state)


def test_a_budget_of_this_machine_knows_no_main_memory_beside_it():
    assert budget_here(5, 2) == Budget(5, 2, half=False, main=None)


def test_the_command_says_what_it_saves(run, klein):
    folder = str(klein.pipeline.folder)
    arguments = ["distill", folder, "--recipe", "klein-4b-ternary-trained", "--dry-run"]
    said = run(*arguments, "--fit", "24GB").out
    assert "saved by teacher-offloaded, gradients-offloaded" in said
    assert "of main memory" in said
    assert "saved by" not in run(*arguments).out
