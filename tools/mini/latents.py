"""The training set: pictures as latents, with the hidden states of every caption."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLFlux2
from tqdm import tqdm

from bonsai_quant.evaluation.scenes.draw import draw
from bonsai_quant.evaluation.scenes.grammar import meanings_of, phrasings
from bonsai_quant.evaluation.scenes.layout import compose
from bonsai_quant.evaluation.scenes.scene import Meaning
from bonsai_quant.evaluation.scenes.world import CATEGORIES, World

from .autoencoder import as_batch, normalised, raw_latents
from .encoder import captions_of
from .run import device
from .sizes import Size

CHUNK = 5_000
"""Pictures in one file, so that a stopped run goes on."""


def training_meanings(world: World) -> list[Meaning]:
    """Everything that a training caption may say, in a fixed order."""
    return [m for c in CATEGORIES for m in meanings_of(world, c, "train")]


def train(size: Size, out: Path, seed: int) -> None:
    """Draw and encode the pictures; encode the captions."""
    folder = out / "latents"
    folder.mkdir(parents=True, exist_ok=True)
    vae = AutoencoderKLFlux2.from_pretrained(out / "vae").to(device()).eval()
    for i in tqdm(range(-(-size.scenes // CHUNK)), desc="latents"):
        if not (folder / f"{i:03d}.pt").exists():
            torch.save(_chunk(size.world, vae, (seed, 4, i)), folder / f"{i:03d}.pt")
    torch.save(captions(size, out), folder / "captions.pt")


@torch.no_grad()
def _chunk(world: World, vae: AutoencoderKLFlux2, seed: tuple[int, ...]) -> dict[str, torch.Tensor]:
    rng, all_of = np.random.default_rng(seed), training_meanings(world)
    by_category = [[i for i, m in enumerate(all_of) if m.category == c] for c in CATEGORIES]
    chosen, latents = [], []
    for _ in range(CHUNK // 50):
        of = [rng.choice(by_category[rng.integers(len(CATEGORIES))]) for _ in range(50)]
        images = [draw(compose(all_of[i], world, rng), world.pixels) for i in of]
        latents.append(normalised(vae, raw_latents(vae, as_batch(np.stack(images)))).half().cpu())
        chosen += of
    return {"latents": torch.cat(latents), "meanings": torch.tensor(chosen)}


def captions(size: Size, out: Path) -> dict[str, torch.Tensor]:
    """states [captions + 1, tokens, joint], the last of an empty one; first, count: by meaning."""
    wordings = [phrasings(m) for m in training_meanings(size.world)]
    counts = torch.tensor([len(w) for w in wordings])
    states = captions_of([*(t for w in wordings for t in w), ""], size, out).cpu()
    return {"states": states, "first": counts.cumsum(0) - counts, "count": counts}


@dataclass
class Samples:
    """The set in memory: pictures with a random wording of what they show."""

    latents: torch.Tensor
    meanings: torch.Tensor
    states: torch.Tensor
    first: torch.Tensor
    count: torch.Tensor

    @classmethod
    def load(cls, out: Path) -> Samples:
        """Read what `train` wrote."""
        files = sorted((out / "latents").glob("[0-9]*.pt"))
        chunks = [torch.load(f, weights_only=True) for f in files]
        captions = torch.load(out / "latents" / "captions.pt", weights_only=True)
        joined = (torch.cat([c[name] for c in chunks]) for name in ("latents", "meanings"))
        parts = (*joined, captions["states"], captions["first"], captions["count"])
        return cls(*(p.to(device()) for p in parts))

    def draw(self, batch: int, *, drop: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents [batch, tokens, channels] and captions [batch, words, joint], some left empty."""
        which = torch.randint(len(self.latents), (batch,), device=self.latents.device)
        captions = self.wording(self.meanings[which])
        empty = torch.rand(captions.shape, device=captions.device) < drop
        captions = captions.masked_fill(empty, len(self.states) - 1)
        return self.latents[which].float(), self.states[captions]

    def wording(self, meanings: torch.Tensor) -> torch.Tensor:
        """The index in `states` of a random caption for each meaning."""
        turn = torch.rand(meanings.shape, device=meanings.device)
        return self.first[meanings] + (turn * self.count[meanings]).long()
