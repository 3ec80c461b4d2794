"""What the levels step and image have in common: prompts, pipelines, and reasons not to run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bonsai_quant.core.errors import BonsaiError
from bonsai_quant.core.schema import PictureSettings
from bonsai_quant.packs.pipeline import Pipeline, locate
from bonsai_quant.packs.read import Pack
from bonsai_quant.runners import RUNNERS, open_runner
from bonsai_quant.runners.picture_settings import read_benchmark
from bonsai_quant.runners.runner import Runner

from .check import Check
from .job import Job

PROMPTS = (
    "a red circle left of a blue square",
    "two green triangles",
    "a yellow cross on a dark background",
    "a small purple circle",
)
SEEDS = (0, 1, 2, 3)
LARGEST = 256
"""Pixels of a side: enough to tell right from wrong, and a sixteenth of the work of 1024."""


def pipeline_for(pack: Pack, job: Job) -> Pipeline:
    """A pack with the other parts of its pipeline."""
    return locate(str(pack.folder), pipeline=job.pipeline, spare=job.against)


def settings_of(pipeline: Pipeline) -> PictureSettings:
    """The pipeline's own, but no larger than LARGEST and without guidance."""
    own = read_benchmark(pipeline.folder).settings
    return replace(
        own, height=min(own.height, LARGEST), width=min(own.width, LARGEST), guidance_scale=1.0
    )


def open_runners(job: Job, level: str) -> tuple[list[Runner], list[Check]]:
    """A runner for each backend, on the format of its name if it is there; or why there is none."""
    opened: list[Runner] = []
    not_run: list[Check] = []
    for backend in (b for b in job.backends if b in RUNNERS and job.packs):
        pack = next((p for p in job.packs if p.format.name == backend), job.packs[0])
        try:
            opened.append(open_runner(pipeline_for(pack, job), backend))
        except BonsaiError as e:
            not_run.append(Check(level, f"{pack.folder.name}: {backend}", "not run", str(e)))
    return opened, not_run


def merged_lora(pack: Pack, against: str, level: str) -> Check | None:
    """Why a pack with a LoRA is not compared: figures would tell of the LoRA, not of the pack."""
    if pack.manifest is None or not pack.manifest.source.lora:
        return None
    names = ", ".join(a.name for a in pack.manifest.source.lora)
    detail = f"{against} is without {names}, which the pack has merged"
    return Check(level, f"{pack.folder.name} ~ {against}", "not run", detail)


def relative_error(a: NDArray[Any], b: NDArray[Any]) -> float:
    """||a - b|| / ||b|| in float64; infinite where a is no number."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    distance = float(np.linalg.norm(x - y))
    return distance / (float(np.linalg.norm(y)) or 1.0) if np.isfinite(distance) else float("inf")
