"""What a token counts is what the whole model's gradients say."""

from __future__ import annotations

import itertools

import pytest
import torch
from diffusers import Flux2Transformer2DModel

from bonsai_quant.training.calibrate.paint import DRAWS, LARGEST
from bonsai_quant.training.trajectories.denoiser import Denoiser

from .conftest import LINEARS

pytestmark = pytest.mark.heavy


def test_tokens_count_by_the_gradients_of_the_whole_model(weighed, standin):
    """The weights, from one pass back through the library's own model."""
    prepared, found = weighed
    original = Flux2Transformer2DModel.from_pretrained(
        standin / "transformer", torch_dtype=torch.float32
    ).requires_grad_(False)
    words = prepared.captions.shape[1]
    side = int(prepared.noise.shape[1] ** 0.5)
    whole, outputs, random = Denoiser(original, side, side, words), {}, torch.Generator()
    random.manual_seed(0)
    linears = {n: original.get_submodule(n) for n in LINEARS}
    fused = "single_transformer_blocks.0.attn.to_qkv_mlp_proj"
    linears[fused] = original.get_submodule(fused)
    hooks = [
        m.register_forward_hook(lambda _, __, y, n=n: outputs.setdefault(n, []).append(y))
        for n, m in linears.items()
    ]
    mine = {n: [] for n in linears}
    z = prepared.noise
    for now, after in itertools.pairwise(prepared.sigmas):
        outputs.clear()
        halves = list(zip(z.split(2), prepared.captions.split(2), strict=True))
        v = [whole(a.clone().requires_grad_(), torch.full((len(a),), now), b) for a, b in halves]
        rms = torch.cat(v).detach().square().mean().sqrt()
        for half, velocity in enumerate(v):
            squares = {n: 0.0 for n in linears}
            for _ in range(DRAWS):
                loss = (torch.randn(velocity.shape, generator=random) * velocity).sum() / rms
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
