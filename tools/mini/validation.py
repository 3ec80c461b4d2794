"""Validation in the middle of training: dev captions painted, judged, and kept as a grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from PIL import Image
from torch import nn

from bonsai_quant.evaluation.scenes.checker import check
from bonsai_quant.evaluation.scenes.grammar import prompts

from .autoencoder import decode
from .encoder import captions_of, empty_caption
from .run import Run, device
from .sizes import Size

SCHEDULER = {
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "max_image_seq_len": 4096,
    "max_shift": 1.15,
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "time_shift_type": "exponential",
    "use_dynamic_shifting": True,
}
"""The settings of FLUX.2 Klein's scheduler."""


def sigmas(tokens: int, steps: int, *, like: int | None = None) -> torch.Tensor:
    """[steps + 1] noise levels from 1 to 0; like: shifted as for another number of steps."""
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(SCHEDULER)
    mu = compute_empirical_mu(tokens, like or steps)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
    return scheduler.sigmas


@torch.no_grad()
def paint(
    model: nn.Module,
    noise: torch.Tensor,
    caption: torch.Tensor,
    levels: torch.Tensor,
    *,
    guidance: float = 1.0,
    empty: torch.Tensor | None = None,
) -> list[torch.Tensor]:
    """Euler's method along the levels: all states, each like noise [n, tokens, c]."""
    states = [noise]
    for now, after in zip(levels[:-1], levels[1:], strict=True):
        z = states[-1]
        level = now.expand(len(z)).to(z.device)
        if guidance == 1.0:
            v = model(z, level, caption)
        else:
            both = torch.cat([caption, empty.expand_as(caption)])
            v, free = model(z.repeat(2, 1, 1), level.repeat(2), both).chunk(2)
            v = free + guidance * (v - free)
        states.append(z + (after - now).to(z.device) * v)
    return states


class Validation:
    """Fixed dev captions and fixed noise."""

    def __init__(self, size: Size, out: Path, seed: int) -> None:
        self.size = size
        self.vae = AutoencoderKLFlux2.from_pretrained(out / "vae").to(device()).eval()
        self.prompts = prompts(size.world, "dev", per_category=size.dev_captions, seed=seed)
        self.captions = captions_of([p.text for p in self.prompts], size, out)
        self.empty = empty_caption(size, out)
        tokens = (size.world.pixels // 2 ** len(size.channels)) ** 2
        generator = torch.Generator().manual_seed(seed)
        shape = (len(self.prompts), tokens, 4 * size.latents)
        self.noise = torch.randn(shape, generator=generator).to(device())

    def measure(self, run: Run, model: nn.Module, settings: dict[str, tuple[int, float]]) -> None:
        """Paint with each setting (steps, guidance); write the share that passes, and a grid."""
        model.eval()
        figures: dict[str, str] = {}
        for name, (steps, guidance) in settings.items():
            levels = sigmas(self.noise.shape[1], steps, like=4)
            z = paint(
                model, self.noise, self.captions, levels, guidance=guidance, empty=self.empty
            )[-1]
            images = decode(self.vae, z)
            figures[name] = f"{self.judge(images):.4f}"
            _grid(images[:: max(1, len(images) // 48)][:48], run.folder / f"{name}.png")
        model.train()
        run.write("validation.csv", step=run.step + 1, seconds=f"{run.spent:.0f}", **figures)

    def judge(self, images: np.ndarray) -> float:
        """The share of pictures that show what their caption says."""
        pairs = zip(images, self.prompts, strict=True)
        return float(np.mean([check(i, p.meaning, self.size.world).passed for i, p in pairs]))


def _grid(images: np.ndarray, path: Path, *, across: int = 12) -> None:
    rows = [np.concatenate(images[i : i + across], 1) for i in range(0, len(images), across)]
    rows = [r for r in rows if r.shape == rows[0].shape]
    Image.fromarray(np.concatenate(rows)).save(path)
