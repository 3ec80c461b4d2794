"""Train the transformer by flow matching: noise to picture, along straight lines.

Flow matching: https://arxiv.org/abs/2210.02747. z = (1 - s) x + s e, and the model learns e - x.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import Flux2Transformer2DModel
from torch import nn

from .latents import Samples
from .muon import Muon
from .run import Run, device, schedule
from .sizes import Size
from .validation import Validation

SHIFT = 6.0
"""Noise levels are drawn as shift u / (1 + (shift - 1) u): composition is decided in much noise."""

DROP = 0.1
"""Share of captions left empty, for guidance."""

VALIDATE_EVERY = 250


def build(size: Size) -> Flux2Transformer2DModel:
    """A transformer of FLUX.2 Klein's kind, as small as its 128-wide heads allow."""
    return Flux2Transformer2DModel(
        patch_size=1,
        in_channels=4 * size.latents,
        num_layers=size.double,
        num_single_layers=size.single,
        attention_head_dim=128,
        num_attention_heads=size.heads,
        joint_attention_dim=size.joint,
        timestep_guidance_channels=256,
        mlp_ratio=3.0,
        axes_dims_rope=(32, 32, 32, 32),
        rope_theta=2000,
        eps=1e-6,
        guidance_embeds=False,
    )


class Velocity(nn.Module):
    """The transformer with the positions of a fixed picture size and text length."""

    def __init__(self, transformer: Flux2Transformer2DModel, size: Size) -> None:
        super().__init__()
        self.transformer = transformer
        side = size.world.pixels // (2 ** len(size.channels))
        axis, one = torch.arange(side), torch.arange(1)
        self.register_buffer("image", torch.cartesian_prod(one, axis, axis, one))
        self.register_buffer("text", torch.cartesian_prod(one, one, one, torch.arange(size.words)))

    def forward(self, z: torch.Tensor, sigma: torch.Tensor, caption: torch.Tensor) -> torch.Tensor:
        """z [n, tokens, channels], sigma [n] in 0..1, caption [n, words, joint] -> like z."""
        return self.transformer(
            hidden_states=z,
            encoder_hidden_states=caption,
            timestep=sigma,
            img_ids=self.image,
            txt_ids=self.text,
            return_dict=False,
        )[0]


def optimizers(model: nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside blocks, AdamW for all else."""
    inside = [p for n, p in model.named_parameters() if "blocks." in n and p.ndim == 2]
    ids = {id(p) for p in inside}
    outside = [p for p in model.parameters() if id(p) not in ids]
    return [
        Muon(inside, rate, weight_decay=0.01),
        torch.optim.AdamW(outside, rate, (0.9, 0.95), weight_decay=0.0),
    ]


def update(
    model: nn.Module, optims: list[torch.optim.Optimizer], loss: torch.Tensor, rate: float
) -> None:
    """One step of every optimizer at this rate."""
    for o in optims:
        o.param_groups[0]["lr"] = rate
        o.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for o in optims:
        o.step()


def average_of(model: nn.Module, decay: float = 0.998) -> torch.optim.swa_utils.AveragedModel:
    """The running mean of the weights, which paints better than the weights do.

    It begins short, so that the first weights are soon forgotten.
    """

    def mean(averages: list[torch.Tensor], values: list[torch.Tensor], count: torch.Tensor) -> None:
        n = int(count)
        torch._foreach_lerp_(averages, values, 1 - min(decay, (1 + n) / (10 + n)))

    return torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.no_grad()(mean))


def train(size: Size, out: Path, seed: int) -> None:
    """Train, with a validation on dev captions now and then."""
    torch.manual_seed(seed)
    stage, samples = size.teacher, Samples.load(out)
    model = Velocity(build(size), size).to(device())
    average, validation = average_of(model), Validation(size, out, seed)
    optims = optimizers(model, stage.rate)
    parts = {f"optimizer{i}": o for i, o in enumerate(optims)}
    run = Run(out / "teacher", stage.steps, seed, model=model, average=average, **parts)
    rate = schedule(stage.steps)
    for step in run:
        x, caption = samples.draw(stage.batch, drop=DROP)
        u = torch.rand(len(x), device=x.device)
        sigma = SHIFT * u / (1 + (SHIFT - 1) * u)
        noise = torch.randn_like(x)
        s = sigma[:, None, None]
        error = model((1 - s) * x + s * noise, sigma, caption) - (noise - x)
        loss = error.square().mean()
        update(model, optims, loss, stage.rate * rate(step))
        average.update_parameters(model)
        run.note(loss=loss)
        if run.ends_round(VALIDATE_EVERY):
            validation.measure(run, average.module, {"s4": (4, 1.0), "s12g2": (12, 2.0)})
    average.module.transformer.save_pretrained(out / "teacher" / "transformer")
