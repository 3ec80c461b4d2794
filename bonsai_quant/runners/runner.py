"""What every runner does, and how a picture is made with one: encode, denoise, decode.

One part is in memory at a time: the text encoder leaves before the transformer comes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bonsai_quant.core.progress import Progress, no_progress
from bonsai_quant.core.schema import PictureSettings
from bonsai_quant.packs.pipeline import Pipeline

from . import noise
from .memory_meter import Meter
from .sampling import PIXELS, Latents, Velocity, guided, levels, walk
from .tokens import Reference
from .vae_tiles import in_tiles


class Runner(Protocol):
    """One way to run a pipeline. Each part is loaded when it is called for, and dropped after."""

    name: str
    pipeline: Pipeline
    computes: str
    """float32 or bfloat16."""

    def encode(self, prompts: Sequence[str], length: int) -> NDArray[np.float32]:
        """Hidden states of the prompts [n, length, width], padded or cut to `length` tokens."""

    def encode_images(self, images: Sequence[NDArray[np.float32]]) -> list[Reference]:
        """Latents of pictures [height, width, 3] in -1 to 1, by the autoencoder's encoder."""

    def transformer(self, references: Sequence[Reference] = ()) -> AbstractContextManager[Velocity]:
        """The transformer in memory, with what it looks at, for as long as the context is open."""

    def decoder(self) -> AbstractContextManager[Callable[[Latents], NDArray[np.float32]]]:
        """The autoencoder's decoder: latents -> pictures [n, height, width, 3] in -1 to 1."""

    def active_bytes(self) -> int:
        """Memory in use now: the device's own count where it has one, else the process's."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Time and memory of one component. peak_bytes: the most in use while it ran."""

    name: str
    seconds: float
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Painting:
    """pictures: [n, height, width, 3] uint8.  latents: what they were decoded from."""

    pictures: NDArray[np.uint8]
    latents: Latents
    stages: tuple[Stage, ...]


def start(seeds: Sequence[int], settings: PictureSettings, channels: int) -> Latents:
    """The noise of each seed [n, rows, columns, channels]."""
    rows, columns = settings.height // PIXELS, settings.width // PIXELS
    return np.stack([noise.draw(s, rows, columns, channels) for s in seeds])


def paint(
    runner: Runner,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: PictureSettings,
    *,
    images: Sequence[NDArray[np.float32]] = (),
    progress: Progress = no_progress,
) -> Painting:
    """A picture of each prompt from its seed's noise, one after another.

    images: [height, width, 3] in -1 to 1, that the prompts refer to.
    progress: told of the three components, and of every step.
    """
    guides = settings.guidance_scale > 1 and not runner.pipeline.distilled
    progress.phase("loading the text encoder and encoding")
    with Meter(runner.active_bytes) as encoding:
        references = runner.encode_images(images) if images else []
        texts = list(dict.fromkeys(prompts))
        captions = runner.encode([*texts, *([""] if guides else [])], settings.max_sequence_length)
    caption_of = [texts.index(p) for p in prompts]
    z = start(seeds, settings, runner.pipeline.channels)
    sigmas = levels(z.shape[1] * z.shape[2], settings.num_inference_steps)
    progress.phase("loading the transformer")
    with Meter(runner.active_bytes) as denoising, runner.transformer(references) as velocity:
        if guides:
            velocity = guided(velocity, captions[-1:], settings.guidance_scale)
        progress.phase("denoising", len(z) * settings.num_inference_steps, "steps")
        finished = []
        for i, k in enumerate(caption_of):
            progress.note(f"picture {i + 1}/{len(z)}")
            some = z[i : i + 1], captions[k : k + 1]
            finished.append(walk(velocity, *some, sigmas, progress.advance)[-1])
    latents = np.concatenate(finished)
    progress.phase("decoding", len(finished), "pictures")
    with Meter(runner.active_bytes) as decoding, runner.decoder() as decode:
        decoded = []
        for one in finished:
            decoded.append(as_bytes(in_tiles(decode, one)))
            progress.advance()
        pictures = np.concatenate(decoded)
    stages = [("encoders", encoding), ("transformer", denoising), ("decoder", decoding)]
    return Painting(pictures, latents, tuple(Stage(name, m.seconds, m.peak) for name, m in stages))


def as_bytes(images: NDArray[np.float32]) -> NDArray[np.uint8]:
    """-1 to 1 -> 0 to 255, rounded as diffusers does; what overflowed becomes black."""
    finite = np.nan_to_num(images / 2 + 0.5, nan=0.0, posinf=0.0, neginf=0.0)
    return np.rint(np.clip(finite, 0, 1) * 255).astype(np.uint8)
