"""The two models that clients are shown with, their packs, and what they paint from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bonsai_quant import convert, export
from bonsai_quant.packs.pipeline import Pipeline, locate
from bonsai_quant.runners import open_runner
from bonsai_quant.runners.noise import draw
from bonsai_quant.runners.sampling import Latents, levels
from bonsai_quant.sources.shipped import find_shipped_pack
from tools.make_checkpoint import make as make_checkpoint

from .client import KLEIN128, MINI

if TYPE_CHECKING:
    from diffusers import AutoencoderKLFlux2

PROMPTS = (
    "a red circle left of a blue square",
    "two green triangles",
    "a yellow star",
    "a blue circle above a red square",
)
STEPS, SIDE, WORDS = 4, 4, 24


@dataclass(frozen=True, slots=True)
class Model:
    """source: packs are of it.  decode: states [n, rows, columns, channels] -> pictures in 0..1."""

    name: str
    source: str
    noise: Latents
    captions: NDArray[np.float32]
    decode: Callable[[Latents], NDArray[np.float32]]

    @property
    def sigmas(self) -> list[float]:
        """Klein's own levels."""
        return levels(self.noise.shape[1] * self.noise.shape[2], STEPS)


def packs(model: Model, mode: str, formats: set[str], work: Path) -> dict[str, Path]:
    """The model's pack of a mode in these formats: what ships of mini-klein, rounded of the other.

    Only the transformer, which is all that clients are asked for.
    """
    folder = work / f"{model.name}-{mode}"
    made = {f: folder / f for f in sorted(formats)}
    if model.name == MINI:
        for name, out in made.items():
            if not out.exists():
                export(find_shipped_pack(f"{MINI}-{mode}"), format=name, out=out)
    elif not folder.exists():
        convert(model.source, mode=mode, formats=list(made), out=folder)
    return made


def make_mini() -> Model:
    """mini-klein, its own captions and decoder."""
    pipeline = locate(MINI)
    runner = open_runner(pipeline, "torch")
    captions = runner.encode(list(PROMPTS), WORDS)
    return Model(MINI, MINI, _noise(pipeline.channels), captions, _decode_by(pipeline))


def make_klein128(work: Path) -> Model:
    """Klein's kind with 128 latent channels, and a decoder: random weights, pictures of nothing."""
    source = work / KLEIN128
    if not source.exists():
        make_checkpoint(source, size="small")
    captions = np.random.default_rng(0).normal(size=(4, WORDS, 384)).astype(np.float32)
    return Model(KLEIN128, str(source), _noise(128), captions, _decode_at_random)


def _noise(channels: int) -> Latents:
    return np.stack([draw(seed, SIDE, SIDE, channels) for seed in range(4)])


def _decode_by(pipeline: Pipeline) -> Callable[[Latents], NDArray[np.float32]]:
    def decode(states: Latents) -> NDArray[np.float32]:
        with open_runner(pipeline, "torch").decoder() as decoder:
            return as_picture(decoder(states))

    return decode


def _decode_at_random(states: Latents) -> NDArray[np.float32]:
    import torch
    from diffusers import Flux2KleinPipeline

    z = torch.from_numpy(np.ascontiguousarray(states.transpose(0, 3, 1, 2)))
    with torch.inference_mode():
        image = _random_decoder().decode(Flux2KleinPipeline._unpatchify_latents(z)).sample
    return as_picture(image.permute(0, 2, 3, 1).numpy())


@cache
def _random_decoder() -> AutoencoderKLFlux2:
    import torch
    from diffusers import AutoencoderKLFlux2

    torch.manual_seed(0)
    widths = (32, 32, 32, 32)
    return AutoencoderKLFlux2(latent_channels=32, block_out_channels=widths).eval()


def as_picture(decoded: NDArray[np.float32]) -> NDArray[np.float32]:
    """-1..1 -> 0..1, cut off as for a file."""
    return np.clip(decoded / 2 + 0.5, 0, 1)
