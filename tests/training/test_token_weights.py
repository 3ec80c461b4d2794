"""What a token counts is what the whole model's gradients say; processes share the prompts."""

from __future__ import annotations

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import Flux2Transformer2DModel
from safetensors.numpy import load_file

from bonsai_quant import convert
from bonsai_quant.conversion.calibration.record import CODES, RECORD
from bonsai_quant.core.errors import UsageError
from bonsai_quant.training.calibrate.paint import DRAWS, LARGEST, projection
from bonsai_quant.training.calibrate.prepared import prepare
from bonsai_quant.training.distributed import ProcessGroup
from bonsai_quant.training.trajectories.denoiser import Denoiser

from .conftest import LINEARS
from .processes import start, start_two

pytestmark = pytest.mark.heavy


def test_tokens_count_by_the_gradients_of_the_whole_model(weighed, standin):
    """The weights, from one pass back through the library's own model."""
    prepared, found = weighed
    original = Flux2Transformer2DModel.from_pretrained(
        standin / "transformer", torch_dtype=torch.float32
    ).requires_grad_(False)
    words = prepared.captions.shape[1]
    side = int(prepared.noise.shape[1] ** 0.5)
    whole, outputs = Denoiser(original, side, side, words), {}
    linears = {n: original.get_submodule(n) for n in LINEARS}
    fused = "single_transformer_blocks.0.attn.to_qkv_mlp_proj"
    linears[fused] = original.get_submodule(fused)
    hooks = [
        m.register_forward_hook(lambda _, __, y, n=n: outputs.setdefault(n, []).append(y))
        for n, m in linears.items()
    ]
    mine = {n: [] for n in linears}
    z = prepared.noise
    for level, (now, after) in enumerate(itertools.pairwise(prepared.sigmas)):
        outputs.clear()
        halves = list(zip(z.split(2), prepared.captions.split(2), strict=True))
        v = [whole(a.clone().requires_grad_(), torch.full((len(a),), now), b) for a, b in halves]
        rms = torch.cat(v).detach().square().mean().sqrt()
        for half, velocity in enumerate(v):
            squares = {n: 0.0 for n in linears}
            seeds = [(2 * half + k) * 1_009 + level for k in range(len(velocity))]
            random = torch.stack([projection(s, velocity.shape[1:]) for s in seeds], 1)
            for r in random:
                loss = (r * velocity).sum() / rms
                ys = [outputs[n][half] for n in linears]
                gradients = torch.autograd.grad(loss, ys, retain_graph=True)
                for n, gradient in zip(linears, gradients, strict=True):
                    squares[n] += gradient.square() / DRAWS
            for n in linears:
                mine[n].append(squares[n])
        z = z + (after - now) * torch.cat(v).detach()
    for hook in hooks:
        hook.remove()
    width = linears[fused].weight.shape[1]
    rows = {(n, 0): slice(None) for n in linears} | {
        (fused, i * width): slice(i * width, (i + 1) * width if i < 3 else None) for i in range(4)
    }
    for part, some in rows.items():
        w = torch.cat(mine[part[0]])[..., some].mean(-1)
        w = (w / w.mean()).clamp(max=LARGEST)
        torch.testing.assert_close(found[part], w / w.mean(), rtol=2e-3, atol=1e-5)


def test_two_processes_calibrate_as_one_does(standin, few, tmp_path):
    """Shared prompts are summed in another order, so that the last bits of H differ and with them
    a code here and there."""
    arguments = [str(standin), "--mode", "binary", "--solver", "gptq", "--prompts", str(few)]
    arguments += ["--n-prompts", "2", "--at-once", "1", "-o"]
    started = {
        "one": [start([*arguments, str(tmp_path / "one")], "calibrate")],
        "two": start_two([*arguments, str(tmp_path / "two")], "calibrate"),
    }
    for name, processes in started.items():
        for process in processes:
            _, said = process.communicate()
            assert process.returncode == 0, (name, said)
    one, two = (load_file(tmp_path / n / CODES) for n in ("one", "two"))
    bits = {n: np.unpackbits(one[n] ^ two[n]).mean() for n in one if n.endswith(".codes")}
    first = [b for n, b in bits.items() if n.startswith("transformer_blocks.0.attn.to_q")]
    assert np.mean(first) < 1e-3
    assert np.mean(list(bits.values())) < 0.1  # later layers are fed what these differences give
    records = [json.loads((tmp_path / n / RECORD).read_text()) for n in ("one", "two")]
    assert records[0]["states"] == records[1]["states"] == 8
    assert (records[0]["compute"]["processes"], records[1]["compute"]["processes"]) == (1, 2)
    for linear, layer in records[0]["layers"].items():
        # Each process draws its own random combinations, so that errors are other estimates.
        assert 0.3 < layer["error"] / records[1]["layers"][linear]["error"] < 3
    again = convert(str(standin), mode="binary", solver="gptq", calibration=tmp_path / "two",
                    formats="bonsai", out=tmp_path / "packs")  # fmt: skip
    assert again.manifests


def test_prompts_that_cannot_be_shared_are_refused():
    job = SimpleNamespace()
    prompts = SimpleNamespace(used=("a", "b", "c"))
    with pytest.raises(UsageError, match="3 prompts cannot be shared evenly by 2 processes"):
        prepare(job, prompts, ProcessGroup(0, 2, torch.device("cpu")))
