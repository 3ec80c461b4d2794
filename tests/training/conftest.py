"""A short training, and the recipe of it."""

from __future__ import annotations

import json

import pytest
import torch

from bonsai_quant import distill, plan
from bonsai_quant.packs.pipeline import locate
from bonsai_quant.training.distributed import ProcessGroup

ALONE = ProcessGroup(0, 1, torch.device("cpu"))
N_PROMPTS = 3
LINEARS = (
    "transformer_blocks.0.attn.to_q", "transformer_blocks.0.attn.to_add_out",
    "transformer_blocks.0.ff_context.linear_out", "single_transformer_blocks.1.attn.to_out",
)  # fmt: skip
SETTINGS = {
    "steps": 6, "batch": 8, "at_once": 8, "rate": 1e-3, "kept_rate": 1e-3, "average": 0.5,
    "exam": 3, "freeze": 0.34, "prompts": 6, "checkpointing": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(json.dumps({"mode": "ternary", "distillation": SETTINGS}))
    return path


@pytest.fixture(scope="module")
def whole(standin, recipe, few, tmp_path_factory):
    """A run that nothing stops."""
    out = tmp_path_factory.mktemp("whole") / "out"
    return distill(str(standin), recipe=recipe, out=out, prompts=str(few))


@pytest.fixture(scope="session")
def weighed(standin, few):
    """Painted states, and the weights of their tokens in every part of every layer."""
    from bonsai_quant.training.calibrate.job import CalibrationJob
    from bonsai_quant.training.calibrate.paint import TokenWeights, paint
    from bonsai_quant.training.calibrate.prepared import prepare
    from bonsai_quant.training.trajectories.prompts import choose_prompts

    work = plan(str(standin), mode="ternary")
    job = CalibrationJob(locate(str(standin)), work, "gptq", str(few), N_PROMPTS, 2, 0, standin)
    prompts = choose_prompts(job.pipeline, str(few), N_PROMPTS)
    prepared, weights = prepare(job, prompts, ALONE), TokenWeights()
    paint(prepared, {n: job.rows(n) for n in job.layers}, weights, seed=0)
    weights.finish(ALONE)
    return prepared, weights.of
