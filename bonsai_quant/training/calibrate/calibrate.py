"""From a pipeline to a folder of second moments."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bonsai_quant.conversion.calibration.record import CalibrationRecord
from bonsai_quant.conversion.plan import plan
from bonsai_quant.conversion.settings import DEFAULT_SOURCE, default_out
from bonsai_quant.core.errors import UsageError, unknown
from bonsai_quant.core.progress import Progress, no_progress
from bonsai_quant.core.recipe import Recipe
from bonsai_quant.core.requirements import RUN, require
from bonsai_quant.packs.output import check_output
from bonsai_quant.packs.pipeline import locate
from bonsai_quant.quantization.solvers import CALIBRATED

from .job import CalibrationJob

N_PROMPTS = 64
"""Prompts whose paths are looked at, each at every noise level of the sampler."""
AT_ONCE = 8
"""States that go through a block at a time."""


@dataclass(frozen=True, slots=True)
class Calibrated:
    """out: the folder.  record: what calibration.json holds."""

    out: Path
    record: CalibrationRecord


def calibrate(
    source: str = DEFAULT_SOURCE,
    *,
    mode: str | None = None,
    recipe: str | Path | Recipe | None = None,
    solver: str | None = None,
    out: str | Path | None = None,
    prompts: str | None = None,
    n_prompts: int = N_PROMPTS,
    at_once: int = AT_ONCE,
    seed: int = 0,
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress = no_progress,
) -> Calibrated:
    """Collect the second moments of every packed layer's inputs into OUT, block by block.

    solver: `gptq` or `weighted` rounds each block before the next one is run, as the pack will be;
    None keeps full precision, which serves any mode.
    prompts: a file, one a line.  n_prompts: how many of them are used.
    at_once: states in a block at a time.  progress: called with blocks.
    """
    if solver is not None and solver not in CALIBRATED:
        raise unknown("solver", solver, CALIBRATED)
    for name, value in (("n-prompts", n_prompts), ("at-once", at_once)):
        if value < 1:
            raise UsageError(f"{name} must be at least 1, not {value}")
    pipeline = locate(source)
    if pipeline.pack is not None:
        raise UsageError("is a pack", where=source, hint="give the full-precision pipeline")
    if solver is not None and mode is None and recipe is None:
        raise UsageError(
            "a solver needs to know the mode",
            hint="pass --mode ternary or binary",
            meant=("--mode", "ternary"),
        )
    require(RUN, "run")
    from .run import run

    any_mode = mode or (None if recipe else "ternary")
    planned = plan(source, mode=any_mode, recipe=recipe, solver="exact", formats="bonsai")
    target = default_out(source, "calibration") if out is None else Path(out)
    job = CalibrationJob(pipeline, planned, solver, prompts, n_prompts, at_once, seed, target)
    check_output(target, planned.source, overwrite=overwrite)
    record: CalibrationRecord = run(job, overwrite=overwrite, resume=resume, progress=progress)
    return Calibrated(target, record)
