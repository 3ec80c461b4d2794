"""Level image: the same prompts and seeds painted by every backend, and by the source."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bonsai_quant.core.errors import BonsaiError
from bonsai_quant.core.memory import room_for
from bonsai_quant.packs.pipeline import Pipeline, locate
from bonsai_quant.packs.read import Pack
from bonsai_quant.runners import REFERENCE, open_runner
from bonsai_quant.runners.runner import Painting, Runner, paint

from .check import Check
from .job import Job
from .pictures import PROMPTS, SEEDS, merged_lora, open_runners, relative_error, settings_of

LEAST_PSNR = 35.0
"""Decibels between two runners of the same pack: an error of 4.5 of 255, which nobody sees.

Rounding to 8 bits alone gives 59 dB, float32 sums in another order 80 and more.
"""


def check_images(job: Job) -> list[Check]:
    """Every runner beside diffusers' own classes on dense decoded weights; then the source."""
    runners, checks = open_runners(job, "image")
    paintings: list[Painting] = []
    dense_pictures: dict[Path, NDArray[np.uint8]] = {}
    for runner in runners:
        job.progress.phase(f"painting with {_subject(runner)}")
        try:
            painting, expected = _paint_both(runner, dense_pictures)
        except BonsaiError as e:
            checks.append(Check("image", _subject(runner), "not run", str(e)))
            continue
        paintings.append(painting)
        checks.append(_against_dense(runner, painting, expected))
    if job.against and paintings:
        job.progress.phase(f"painting with {job.against}")
        merged = merged_lora(job.packs[0], job.against, "image")
        checks.append(merged or _against_source(job.packs[0], job.against, paintings[0]))
    return checks


def _against_dense(runner: Runner, painting: Painting, expected: NDArray[np.uint8]) -> Check:
    least = min(psnr(a, b) for a, b in zip(painting.pictures, expected, strict=True))
    return Check(
        "image",
        f"{_subject(runner)} = dense decoded in diffusers",
        "passed" if least >= LEAST_PSNR else "failed",
        f"{least:.1f} dB at least over {len(PROMPTS)} pictures, {LEAST_PSNR:g} are asked",
        {"psnr": least, "limit": LEAST_PSNR},
    )


def _subject(runner: Runner) -> str:
    pack = runner.pipeline.pack
    return f"{pack.folder.name if pack else ''}: {runner.name}"


def _paint_both(
    runner: Runner, dense_pictures: dict[Path, NDArray[np.uint8]]
) -> tuple[Painting, NDArray[np.uint8]]:
    """What a runner paints, and what dense weights paint from the same captions.

    dense_pictures: by pipeline, since deployments bring text encoders of their own, which say
    other things of a prompt.
    """
    pipeline = runner.pipeline
    if pipeline.folder not in dense_pictures:
        dense_pictures[pipeline.folder] = _dense_pictures(pipeline)
    return paint(runner, PROMPTS, SEEDS, settings_of(pipeline)), dense_pictures[pipeline.folder]


def _dense_pictures(pipeline: Pipeline) -> NDArray[np.uint8]:
    from bonsai_quant.runners.torch.dense import open_pipeline, paint_dense

    assert pipeline.pack is not None
    weights = sum(t.size for t in pipeline.pack.info.tensors)
    room_for(4 * weights, "the dense transformer in float32")
    pipe = open_pipeline(pipeline.pack.folder, pipeline=str(pipeline.folder))
    return paint_dense(pipe, PROMPTS, SEEDS, settings_of(pipeline), batch=1)


def _against_source(pack: Pack, against: str, painting: Painting) -> Check:
    source = locate(against)
    reference = paint(open_runner(source, REFERENCE), PROMPTS, SEEDS, settings_of(source))
    others = np.roll(reference.pictures, 1, axis=0)
    near, chance = (
        float(np.mean([psnr(a, b) for a, b in zip(painting.pictures, pictures, strict=True)]))
        for pictures in (reference.pictures, others)
    )
    latents = relative_error(painting.latents, reference.latents)
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
