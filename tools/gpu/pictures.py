"""A picture of a pack by each backend on the card, beside the one that the CPU paints."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from bonsai_quant.core.schema import PictureSettings
from bonsai_quant.packs.pipeline import Pipeline
from bonsai_quant.runners import open_runner
from bonsai_quant.runners.generate import choose_settings
from bonsai_quant.runners.runner import Runner, paint
from bonsai_quant.verification.levels.images import psnr

from .clock import Clock
from .products import EVERYTHING, most_rows

PROMPT, SEED = "a red circle left of a blue square", 0


@dataclass(frozen=True)
class Painted:
    """seconds: of the second picture.  first: of the first, which tunes.  peak: device bytes."""

    backend: str
    first: float
    seconds: float
    peak: int
    psnr: float
    ways: dict[str, int]


def painted(pipeline: Pipeline, clock: Clock) -> list[Painted]:
    """By torch, by gemlite as its rule says, and by gemlite with kernels for every product."""
    settings = choose_settings(pipeline, None, None)
    reference = open_runner(pipeline, "torch")
    reference.device, reference.dtype = torch.device("cpu"), torch.float32
    expected = picture(reference, settings)
    made = [
        _by("torch", open_runner(pipeline, "torch"), settings, clock, expected),
        _by("gemlite, its rule", open_runner(pipeline, "gemlite"), settings, clock, expected),
    ]
    with most_rows(EVERYTHING):
        runner = open_runner(pipeline, "gemlite")
        made.append(_by("gemlite, all kernels", runner, settings, clock, expected))
    return made


def picture(runner: Runner, settings: PictureSettings) -> np.ndarray:
    """[height, width, 3] uint8."""
    return paint(runner, [PROMPT], [SEED], settings).pictures[0]


def _by(
    label: str, runner: Runner, settings: PictureSettings, clock: Clock, expected: np.ndarray
) -> Painted:
    times: list[float] = []
    pictures: list[np.ndarray] = []

    def once() -> None:
        start = time.perf_counter()
        pictures.append(picture(runner, settings))
        times.append(time.perf_counter() - start)

    peak = clock.peak(once)
    if not clock.quick:
        once()
    near = psnr(pictures[0], expected)
    ways = {str(k): n for k, n in getattr(runner, "ways", {}).items()}
    return Painted(label, times[0], times[-1], peak, near, ways)
