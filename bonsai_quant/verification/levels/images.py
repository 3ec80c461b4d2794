"""Level image: the same prompts and seeds painted by every backend, and by the source."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bonsai_quant.core.errors import BonsaiError
from bonsai_quant.core.memory import room_for
from bonsai_quant.packs.pipeline import Pipeline, locate
from bonsai_quant.packs.read import Pack
from bonsai_quant.runners import open_runner
from bonsai_quant.runners.runner import Painting, Runner, paint

from .check import Check
from .pictures import PROMPTS, SEEDS, apart, merged_away, place_of, runners, settings_of

LEAST_PSNR = 35.0
"""Decibels between two runners of the same pack: an error of 4.5 of 255, which nobody sees.

Rounding to 8 bits alone gives 59 dB, float32 sums in another order 80 and more.
"""


def check_images(
    packs: Sequence[Pack], backends: Sequence[str], pipeline: str | None, against: str | None
) -> list[Check]:
    """Stock diffusers on dense decoded weights is the yardstick of every backend."""

    def find(pack: Pack) -> Pipeline:
        return place_of(pack, pipeline, against)

    able, checks = runners(packs, backends, find, "image")
    painted: list[Painting] = []
    yardsticks: dict[Path, NDArray[np.uint8]] = {}
    for runner in able:
        try:
            made, dense = _both(runner, yardsticks)
        except BonsaiError as e:
            checks.append(Check("image", _subject(runner), "not run", str(e)))
            continue
        painted.append(made)
        found = min(psnr(a, b) for a, b in zip(made.pictures, dense, strict=True))
        checks.append(
            Check(
                "image",
                f"{_subject(runner)} = dense decoded in diffusers",
                "passed" if found >= LEAST_PSNR else "failed",
                f"{found:.1f} dB at least over {len(PROMPTS)} pictures, {LEAST_PSNR:g} are asked",
                {"psnr": found, "limit": LEAST_PSNR},
            )
        )
    if against and painted:
        merged = merged_away(packs[0], against, "image")
        checks.append(merged or _against_source(packs[0], against, painted[0]))
    return checks


def _subject(runner: Runner) -> str:
    pack = runner.place.pack
    return f"{pack.folder.name if pack else ''}: {runner.name}"


def _both(
    runner: Runner, yardsticks: dict[Path, NDArray[np.uint8]]
) -> tuple[Painting, NDArray[np.uint8]]:
    """What a runner paints, and the yardstick for its captions.

    Deployments bring their own text encoders, which say other things of a prompt.
    """
    place = runner.place
    if place.pipeline not in yardsticks:
        yardsticks[place.pipeline] = _dense_pictures(place)
    return paint(runner, PROMPTS, SEEDS, settings_of(place)), yardsticks[place.pipeline]


def _dense_pictures(place: Pipeline) -> NDArray[np.uint8]:
    from bonsai_quant.runners.torch.dense import open_pipeline, paint_dense

    assert place.pack is not None
    weights = sum(t.size for t in place.pack.info.tensors)
    room_for(4 * weights, "the dense transformer in float32")
    pipe = open_pipeline(place.pack.folder, pipeline=str(place.pipeline))
    return paint_dense(pipe, PROMPTS, SEEDS, settings_of(place), batch=1)


def _against_source(pack: Pack, against: str, mine: Painting) -> Check:
    source = locate(against)
    theirs = paint(open_runner(source, "torch"), PROMPTS, SEEDS, settings_of(source))
    others = np.roll(theirs.pictures, 1, axis=0)
    near, chance = (
        float(np.mean([psnr(a, b) for a, b in zip(mine.pictures, those, strict=True)]))
        for those in (theirs.pictures, others)
    )
    latents = apart(mine.latents, theirs.latents)
    return Check(
        "image",
        f"{pack.folder.name} ~ {against}",
        "measured",
        f"{near:.1f} dB to the source's picture of the same prompt and seed, {chance:.1f} dB "
        f"to another's; latents {latents:.3f} apart",
        {"psnr": near, "psnr_of_others": chance, "latents": latents},
    )


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """10 log10(255^2 / mean squared difference) of two pictures; 99 where they are equal."""
    error = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return min(99.0, 10 * math.log10(255**2 / error)) if error else 99.0
