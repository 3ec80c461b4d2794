"""What the levels step and image have in common: prompts, places, and what stands in their way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bonsai_quant.core.errors import BonsaiError
from bonsai_quant.core.schema import PictureSettings
from bonsai_quant.packs.pipeline import Pipeline, locate
from bonsai_quant.packs.read import Pack
from bonsai_quant.runners import open_runner
from bonsai_quant.runners.picture_settings import read_benchmark
from bonsai_quant.runners.runner import Runner

from .check import Check

PROMPTS = (
    "a red circle left of a blue square",
    "two green triangles",
    "a yellow cross on a dark background",
    "a small purple circle",
)
SEEDS = (0, 1, 2, 3)
LARGEST = 256
"""Pixels of a side: enough to tell right from wrong, and a sixteenth of the work of 1024."""


def place_of(pack: Pack, pipeline: str | None, against: str | None) -> Pipeline:
    """Where the other parts of a pack are."""
    return locate(str(pack.folder), pipeline=pipeline, spare=against)


def settings_of(place: Pipeline) -> PictureSettings:
    """The pipeline's own, but no larger than LARGEST and without guidance."""
    own = read_benchmark(place.pipeline).settings
    return replace(
        own, height=min(own.height, LARGEST), width=min(own.width, LARGEST), guidance_scale=1.0
    )


def runners(
    packs: Sequence[Pack], backends: Sequence[str], find: Callable[[Pack], Pipeline], level: str
) -> tuple[list[Runner], list[Check]]:
    """One runner for each backend, on its own format where it is there; or why there is none."""
    found, missing = [], []
    for backend in backends:
        pack = next((p for p in packs if p.format.name == backend), packs[0])
        subject = f"{pack.folder.name}: {backend}"
        try:
            found.append(open_runner(find(pack), backend))
        except BonsaiError as e:
            missing.append(Check(level, subject, "not run", str(e)))
    return found, missing


def merged_away(pack: Pack, against: str, level: str) -> Check | None:
    """Beside a source without the LoRA of its pack, figures would tell of the LoRA."""
    if pack.manifest is None or not pack.manifest.source.lora:
        return None
    names = ", ".join(a.name for a in pack.manifest.source.lora)
    detail = f"{against} is without {names}, which the pack has merged"
    return Check(level, f"{pack.folder.name} ~ {against}", "not run", detail)


def apart(a: NDArray[Any], b: NDArray[Any]) -> float:
    """||a - b|| / ||b|| in float64; infinite where a is no number."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    distance = float(np.linalg.norm(x - y))
    return distance / (float(np.linalg.norm(y)) or 1.0) if np.isfinite(distance) else float("inf")
