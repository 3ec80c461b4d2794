"""Train the autoencoder: pictures of the world through a few latents and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLFlux2

from bonsai_quant.evaluation.scenes.draw import draw
from bonsai_quant.evaluation.scenes.grammar import draw_prompt
from bonsai_quant.evaluation.scenes.layout import compose
from bonsai_quant.evaluation.scenes.world import World

from .run import Run, device, schedule
from .sizes import Size

NOISE = 0.1
"""Standard deviation of the noise on latents: the decoder must bear the transformer's errors."""

LEASH = 1e-3
"""Weight of the latents' squares in the loss, so that the noise keeps its size next to them."""


def build(size: Size) -> AutoencoderKLFlux2:
    """A small one of FLUX.2's kind."""
    blocks = len(size.channels)
    return AutoencoderKLFlux2(
        block_out_channels=size.channels,
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        latent_channels=size.latents,
        layers_per_block=1,
        norm_num_groups=size.norm_groups,
        sample_size=size.world.pixels,
    )


def pictures(world: World, count: int, seed: tuple[int, ...]) -> torch.Tensor:
    """[count, 3, pixels, pixels] float32 in [-1, 1]: scenes of training captions."""
    rng = np.random.default_rng(seed)
    scenes = (compose(draw_prompt(world, rng).meaning, world, rng) for _ in range(count))
    return as_batch(np.stack([draw(s, world.pixels) for s in scenes]))


def as_batch(images: np.ndarray) -> torch.Tensor:
    """[n, h, w, 3] uint8 -> [n, 3, h, w] float32 in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1).contiguous()


def importance(images: torch.Tensor) -> torch.Tensor:
    """[n, 1, h, w] of mean 1: pixels on and next to coloured things count seven times.

    Things cover a twentieth of a picture; without this, a wrong colour or corner costs nothing.
    """
    colourful = images.amax(1, keepdim=True) - images.amin(1, keepdim=True)
    near = torch.nn.functional.max_pool2d(colourful, 5, 1, 2) > 0.5
    weight = 1 + 6 * near.float()
    return weight / weight.mean()


def visible(error: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Mean absolute and squared error, weighted by importance."""
    return (importance(images) * (error.abs() + error.square())).mean()


def train(size: Size, out: Path, seed: int) -> None:
    """Train, then measure the latents' mean and variance, which the pipeline divides by."""
    torch.manual_seed(seed)
    stage, model = size.autoencoder, build(size).to(device())
    optimizer = torch.optim.AdamW(model.parameters(), stage.rate, (0.9, 0.95), weight_decay=0.0)
    rate = schedule(stage.steps)
    run = Run(out / "autoencoder", stage.steps, seed, model=model, optimizer=optimizer)
    for step in run:
        x = pictures(size.world, stage.batch, (seed, 1, step)).to(device())
        z = model.encode(x).latent_dist.mode()
        error = model.decode(z + NOISE * torch.randn_like(z)).sample - x
        loss = visible(error, x) + LEASH * z.square().mean()
        optimizer.param_groups[0]["lr"] = stage.rate * rate(step)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        run.note(loss=loss, squared_error=error.square().mean(), latent=z.square().mean())
    _measure(model, size, seed)
    model.save_pretrained(out / "vae")


@torch.no_grad()
def _measure(model: AutoencoderKLFlux2, size: Size, seed: int) -> None:
    latents = [raw_latents(model, pictures(size.world, 64, (seed, 2, i))) for i in range(32)]
    every = torch.cat(latents).flatten(0, 1)
    model.bn.running_mean.copy_(every.mean(0))
    model.bn.running_var.copy_(every.var(0))


@torch.no_grad()
def raw_latents(model: AutoencoderKLFlux2, images: torch.Tensor) -> torch.Tensor:
    """[n, tokens, 4 * latent channels]: latents in patches of 2 x 2, as the pipeline packs them."""
    z = model.encode(images.to(device())).latent_dist.mode()
    n, c, h, w = z.shape
    z = z.view(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return z.reshape(n, (h // 2) * (w // 2), c * 4)


def normalised(model: AutoencoderKLFlux2, raw: torch.Tensor) -> torch.Tensor:
    """Latents of mean 0 and variance 1 in each channel: what the transformer learns."""
    return (raw - model.bn.running_mean) / spread(model)


def spread(model: AutoencoderKLFlux2) -> torch.Tensor:
    """[4 * latent channels]: standard deviation of each channel, as the pipeline scales them."""
    return torch.sqrt(model.bn.running_var + model.config.batch_norm_eps)


def as_map(model: AutoencoderKLFlux2, latents: torch.Tensor) -> torch.Tensor:
    """Normalised latents [n, tokens, channels] -> what the decoder reads [n, c, h, w]."""
    n, tokens, c = latents.shape
    side = int(tokens**0.5)
    z = (latents * spread(model) + model.bn.running_mean).view(n, side, side, c // 4, 2, 2)
    return z.permute(0, 3, 1, 4, 2, 5).reshape(n, c // 4, 2 * side, 2 * side)


@torch.no_grad()
def decode(model: AutoencoderKLFlux2, latents: torch.Tensor) -> np.ndarray:
    """Normalised latents [n, tokens, channels] -> pictures [n, h, w, 3] uint8."""
    x = model.decode(as_map(model, latents)).sample.add(1).mul(127.5).round().clamp(0, 255)
    return x.permute(0, 2, 3, 1).byte().cpu().numpy()
