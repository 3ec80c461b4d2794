"""Train the decoder on: pictures from latents as far off as the transformer's are.

The encoder stays as it is, and so do the latents that the transformer learns.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKLFlux2

from .autoencoder import as_map, normalised, pictures, raw_latents, visible
from .run import Run, device, schedule
from .sizes import Size

MOST = 0.6
"""Largest standard deviation of the noise on normalised latents; each picture draws its own."""


def train(size: Size, out: Path, seed: int) -> None:
    """Train the decoder of OUT/vae, and write it back there."""
    stage = size.decoder
    model = AutoencoderKLFlux2.from_pretrained(out / "vae").to(device())
    parts = torch.nn.ModuleList([model.decoder, model.post_quant_conv])
    optimizer = torch.optim.AdamW(parts.parameters(), stage.rate, (0.9, 0.95), weight_decay=0.0)
    rate = schedule(stage.steps)
    run = Run(out / "decoder", stage.steps, seed, model=model, optimizer=optimizer)
    for step in run:
        x = pictures(size.world, stage.batch, (seed, 5, step)).to(device())
        z = normalised(model, raw_latents(model, x))
        z = z + MOST * torch.rand(len(z), 1, 1, device=z.device) * torch.randn_like(z)
        error = model.decode(as_map(model, z)).sample - x
        loss = visible(error, x)
        optimizer.param_groups[0]["lr"] = stage.rate * rate(step)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
        optimizer.step()
        run.note(loss=loss, squared_error=error.square().mean())
    model.save_pretrained(out / "vae")
