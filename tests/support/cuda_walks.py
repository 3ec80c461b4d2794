"""Walks through the lines of training and solving that only a GPU reaches: see test_cuda_lines."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import torch

from tests.support.cuda_lines import CUDA, walk


def _autocast(here):
    """torch.autocast that remembers: a torch without CUDA would turn it off."""
    asked = []

    @contextmanager
    def autocast(kind, dtype, enabled):
        asked.append((kind, dtype, enabled))
        yield

    here.patch(torch, "autocast", autocast)
    return asked


@walk("training/trajectories/layered.py:run_block")
def _(here):
    from bonsai_quant.training.trajectories.layered import Stream, run_block

    asked = _autocast(here)
    tensor = SimpleNamespace(to=lambda device: device)

    class Block:
        def parameters(self):
            return iter([SimpleNamespace(device=CUDA)])

        def __call__(self, hidden_states, encoder_hidden_states):
            assert (hidden_states, encoder_hidden_states) == (CUDA, CUDA)
            return "text", "picture"

    stream = Stream(tensor, tensor, {}, {})
    assert run_block(Block(), "transformer_blocks.0", stream) == ("picture", "text")
    assert asked == [("cuda", torch.bfloat16, True)]


@walk("training/trajectories/denoiser.py:Denoiser.forward")
def _(here):
    from bonsai_quant.training.trajectories.denoiser import Denoiser

    asked = _autocast(here)
    model = Denoiser(lambda **_: (torch.ones(1).bfloat16(),), 2, 2, 3)
    v = model(SimpleNamespace(device=CUDA), None, None)
    assert asked == [("cuda", torch.bfloat16, True)]
    assert v.dtype == torch.float32


@walk("training/compute.py:device_here")
def _(here):
    from bonsai_quant.training.compute import device_here

    assert device_here() == torch.device("cuda")


@walk("training/compute.py:compute_here")
def _(here):
    from bonsai_quant.training.compute import compute_here

    assert compute_here().device == "H100"


@walk("quantization/solvers/columns.py:round_group")
def _(here):
    from bonsai_quant.quantization.solvers import columns

    here.patch(columns.columns_torch, "round_group", lambda *given: given)
    w = SimpleNamespace(device=CUDA)
    assert columns.round_group(w, "passed", "R", "s", "ternary") == (w, "passed", "R", "s", True)


@walk("quantization/solvers/columns.py:descend_group")
def _(here):
    from bonsai_quant.quantization.solvers import columns

    asked = []
    here.patch(columns.columns_torch, "descend_group", lambda *given: asked.append(given))
    columns.descend_group(SimpleNamespace(device=CUDA), "v", "h", "s", "t", "binary", 3)
    assert len(asked) == 1


@walk("training/rungs.py:_memory")
def _(here):
    from bonsai_quant.training.rungs import choose_rungs

    here.patch("bonsai_quant.training.rungs.cost.speed", lambda device: 1e12)
    half = choose_rungs("mini-klein", "ternary", hours=3, memory=24 << 30).rungs[1].memory
    here.patch(torch.cuda, "is_available", lambda: False)
    assert half < choose_rungs("mini-klein", "ternary", hours=3, memory=24 << 30).rungs[1].memory


@walk("training/distributed.py:join")
def _(here):
    from bonsai_quant.training.distributed import join

    with join() as alone:
        assert (alone.device, alone.size) == (CUDA, 1)
    here.setenv("WORLD_SIZE", "2")
    here.setenv("LOCAL_RANK", "1")
    asked = []
    for name, value in (("init_process_group", None), ("get_rank", 1),
                        ("destroy_process_group", None)):  # fmt: skip
        here.patch(torch.distributed, name, lambda *how, v=value: asked.append(how) or v)
    here.patch(torch.cuda, "set_device", asked.append)
    with join() as two:
        assert (two.rank, two.size, two.device) == (1, 2, torch.device("cuda:1"))
    assert asked == [torch.device("cuda:1"), ("nccl",), (), ()]


@walk("training/distill/load.py:_transformer")
def _(here):
    from bonsai_quant.training.distill import load
    from bonsai_quant.training.distributed import ProcessGroup

    asked = []
    here.patch(
        load, "load_transformer", lambda _, dtype: asked.append(dtype) or torch.nn.Linear(1, 1)
    )
    job = SimpleNamespace(start=None, pipeline=SimpleNamespace(part=str))
    load._transformer(job, ProcessGroup(0, 1, CUDA), learns=False)
    assert asked == [torch.bfloat16]


@walk("training/distill/load.py:stream")
def _(here):
    from bonsai_quant.training.distill import load
    from bonsai_quant.training.trajectories.denoiser import Denoiser

    asked, model = [], torch.nn.Module()
    model.enable_group_offload = lambda **how: asked.append(how)
    denoiser = Denoiser(model, 2, 2, 3)
    here.patch(Denoiser, "register_buffer", lambda *how, persistent: asked.append(how[1]))
    device = SimpleNamespace(type="cuda")
    here.patch(torch.Tensor, "to", lambda _, where: where)
    load.stream(denoiser, device)
    assert (asked[0]["onload_device"], asked[0]["use_stream"]) == (device, True)
    assert asked[1:] == ["image_ids", "text_ids"]


@walk("training/distill/fit.py:budget_here")
def _(here):
    from bonsai_quant.training.distill import fit

    here.patch(fit, "available", lambda: 7)
    assert fit.budget_here(5, 1) == fit.Budget(5, 1, half=True, main=7)


@walk("training/distill/run.py:_check_memory")
def _(here):
    from bonsai_quant.training.distill import run
    from bonsai_quant.training.distributed import ProcessGroup

    asked = []
    here.patch(run, "needed", lambda job, size, half: asked.append(half) or {"model": 5})
    here.patch(run, "check_room", lambda parts, free, name: asked.append(free))
    job = SimpleNamespace(pipeline=SimpleNamespace(name="x"))
    run._check_memory(job, ProcessGroup(0, 1, CUDA), None)
    assert asked == [True, 1000]
