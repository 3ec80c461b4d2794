"""What every runner does, and how a picture is made with one: encode, denoise, decode.

One part is in memory at a time: the text encoder leaves before the transformer comes.
"""

from __future__ import annotations

import math
import time
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
from .memory_meter import Meters, Stage
from .sampling import PIXELS, Latents, Velocity, foresee, guided, levels, walk
from .tokens import Reference
from .vae_tiles import in_tiles


class Runner(Protocol):
    """One way to run a pipeline. Each part is loaded when it is called for, and dropped after."""

    name: str
    pipeline: Pipeline
    computes: str
    """float32, bfloat16 or float16."""

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


AT_ONCE = 16
"""Prompts encoded together: those of FLUX.2 Klein 4B take 16 MB each."""
PATIENCE_S = 60.0
"""After so many seconds of denoising, the pictures so far are decoded, before the next ones."""


@dataclass(frozen=True, slots=True)
class Painting:
    """pictures: [n, height, width, 3] uint8.  latents: what they were decoded from."""

    pictures: NDArray[np.uint8]
    latents: Latents
    stages: tuple[Stage, ...]


@dataclass(frozen=True, slots=True)
class Finished:
    """One picture. index: which of those asked for.  pixels: [height, width, 3] uint8.

    latents: [rows, columns, channels], which it was decoded from.  guesses: the picture as each
    step foresaw it, [steps, height, width, 3] uint8, if they were asked for.
    """

    index: int
    pixels: NDArray[np.uint8]
    latents: Latents
    guesses: NDArray[np.uint8] | None = None


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
    """A picture of each prompt from its seed's noise, all held in memory; see `paint_each`."""
    made: list[Finished] = []
    stages = paint_each(
        runner, prompts, seeds, settings, made.append,
        images=images, progress=progress, at_once=len(prompts), patience=math.inf,
    )  # fmt: skip
    return Painting(np.stack([f.pixels for f in made]), np.stack([f.latents for f in made]), stages)


def paint_each(
    runner: Runner,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: PictureSettings,
    take: Callable[[Finished], None],
    *,
    images: Sequence[NDArray[np.float32]] = (),
    progress: Progress = no_progress,
    guesses: bool = False,
    at_once: int | None = None,
    patience: float | None = None,
) -> tuple[Stage, ...]:
    """A picture of each prompt from its seed's noise, each handed over when it is decoded.

    take: called with every picture, in order.  images: [height, width, 3] in -1 to 1, that the
    prompts refer to.  guesses: decode what each step foresees, too.
    progress: told of the three components, and of every step.
    at_once: prompts that are encoded together [AT_ONCE].  patience: seconds [PATIENCE_S].
    """
    meters = Meters(runner.active_bytes)
    session = _Session(runner, settings, meters, progress, guesses, len(prompts))
    if images:
        with meters.measure("encoders"):
            session.references = runner.encode_images(images)
    until = PATIENCE_S if patience is None else patience
    for group in _groups(prompts, AT_ONCE if at_once is None else at_once):
        captions = session.encode([prompts[i] for i in group])
        left = [(i, captions[prompts[i]], seeds[i]) for i in group]
        while left:
            walks = session.denoise(left, until)
            left = left[len(walks) :]
            session.decode(walks, take)
    return meters.stages


@dataclass(frozen=True, slots=True)
class _Walk:
    """The states of a picture on its way, the last alone where no others are asked for."""

    index: int
    states: list[Latents]


@dataclass
class _Session:
    """What `paint_each` does in turn, with one component in memory at a time."""

    runner: Runner
    settings: PictureSettings
    meters: Meters
    progress: Progress
    guesses: bool
    n: int
    references: Sequence[Reference] = ()

    @property
    def guides(self) -> bool:
        """Whether the empty caption is needed, to steer away from it."""
        return self.settings.guidance_scale > 1 and not self.runner.pipeline.distilled

    @property
    def sigmas(self) -> list[float]:
        """Noise levels of all pictures."""
        rows, columns = self.settings.height // PIXELS, self.settings.width // PIXELS
        return levels(rows * columns, self.settings.num_inference_steps)

    def encode(self, prompts: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Each prompt's states [1, tokens, width]; of the empty one, too, where it guides."""
        self.progress.phase("loading the text encoder and encoding")
        texts = list(dict.fromkeys([*prompts, *([""] if self.guides else [])]))
        with self.meters.measure("encoders"):
            states = self.runner.encode(texts, self.settings.max_sequence_length)
        self._empty = states[-1:]
        return {text: states[k : k + 1] for k, text in enumerate(texts)}

    def denoise(
        self, jobs: Sequence[tuple[int, NDArray[np.float32], int]], patience: float
    ) -> list[_Walk]:
        """The first of the pictures, at least one, as many as can be begun in `patience` seconds.

        jobs: index, caption [1, tokens, width], and seed of each.
        """
        walks: list[_Walk] = []
        sigmas, runner, progress = self.sigmas, self.runner, self.progress
        progress.phase("loading the transformer")
        with (
            self.meters.measure("transformer"),
            runner.transformer(self.references) as velocity,
        ):
            if self.guides:
                velocity = guided(velocity, self._empty, self.settings.guidance_scale)
            progress.phase("denoising", len(jobs) * (len(sigmas) - 1), "steps")
            until = time.monotonic() + patience
            for index, caption, seed in jobs:
                if walks and time.monotonic() >= until:
                    break
                progress.note(f"picture {index + 1}/{self.n}")
                z = start([seed], self.settings, runner.pipeline.channels)
                states = walk(velocity, z, caption, sigmas, progress.advance)
                walks.append(_Walk(index, states if self.guesses else states[-1:]))
        return walks

    def decode(self, walks: Sequence[_Walk], take: Callable[[Finished], None]) -> None:
        """Hand over each picture as soon as it is decoded."""
        self.progress.phase("decoding", len(walks), "pictures")
        with self.meters.measure("decoder"), self.runner.decoder() as decode:
            for w in walks:
                ahead = foresee(w.states, self.sigmas) if self.guesses else w.states
                *guesses, pixels = (as_bytes(in_tiles(decode, z))[0] for z in ahead)
                seen = np.stack([*guesses, pixels]) if self.guesses else None
                take(Finished(w.index, pixels, w.states[-1][0], seen))
                self.progress.advance()


def _groups(prompts: Sequence[str], at_once: int) -> list[list[int]]:
    """Indices in order, cut where a group would hold more than `at_once` different prompts."""
    groups: list[list[int]] = []
    held: set[str] = set()
    for i, prompt in enumerate(prompts):
        if not groups or (prompt not in held and len(held) >= at_once):
            groups.append([])
            held = set()
        groups[-1].append(i)
        held.add(prompt)
    return groups


def as_bytes(images: NDArray[np.float32]) -> NDArray[np.uint8]:
    """-1 to 1 -> 0 to 255, rounded as diffusers does; what overflowed becomes black."""
    finite = np.nan_to_num(images / 2 + 0.5, nan=0.0, posinf=0.0, neginf=0.0)
    return np.rint(np.clip(finite, 0, 1) * 255).astype(np.uint8)
