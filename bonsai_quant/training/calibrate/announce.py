"""Saying what a calibration will take, before it starts."""

from __future__ import annotations

import logging

from bonsai_quant.core.memory import available, require
from bonsai_quant.core.numbers import duration, size
from bonsai_quant.training.compute import device_here

from . import cost
from .job import CalibrationJob

log = logging.getLogger(__name__)


def announce(job: CalibrationJob, n_prompts: int) -> None:
    """Say what a calibration with a solver will take, and refuse what does not fit."""
    if job.solver is None:
        return
    sizes = cost.sizes(job, n_prompts)
    parts, work = cost.memory(job, sizes), cost.work(job, sizes)
    need = sum(parts.values())
    for part, n in parts.items():
        log.info("%s  %s", size(n), part)
    seconds = work.total / cost.speed(device_here())
    log.warning(
        "%d layers, %d states of %d + %d tokens: about %s and %s of memory",
        len(job.layers), sizes.states, sizes.tokens, sizes.words, duration(seconds), size(need),
    )  # fmt: skip
    most = max(parts, key=lambda p: parts[p])
    require(
        need,
        available(),
        problem=f"about {size(need)} are needed ({most}: {size(parts[most])})",
        where=job.pipeline.name,
        hint="use fewer prompts, or smaller pictures with --size",
    )
