"""From a pipeline to a folder of second moments."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from bonsai_quant.conversion.calibration.record import CalibrationRecord
from bonsai_quant.conversion.plan import plan
from bonsai_quant.conversion.settings import DEFAULT_SOURCE, choose_recipe, default_out
from bonsai_quant.core.errors import UsageError, unknown
from bonsai_quant.core.progress import Progress, no_progress
from bonsai_quant.core.recipe import Recipe
from bonsai_quant.core.requirements import RUN, require
from bonsai_quant.packs.output import check_output
from bonsai_quant.packs.pipeline import locate
from bonsai_quant.quantization.solvers import CALIBRATED
from bonsai_quant.storage.staging import Staging

from .job import CalibrationJob

log = logging.getLogger(__name__)

N_PROMPTS = 64
"""Prompts whose paths are looked at, each at every noise level of the sampler."""
AT_ONCE = 8
"""States that go through a block at a time."""


@dataclass(frozen=True, slots=True)
class Calibrated:
    """out: the folder.  record: what calibration.json holds.

    The record is None in the processes of torchrun that are not the first.
    """

    out: Path
    record: CalibrationRecord | None


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
    size: str | None = None,
    seed: int = 0,
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress = no_progress,
) -> Calibrated:
    """Solve every packed layer behind those before it, into OUT: codes and scales for `convert`.

    solver: `gptq` or `weighted`; None rounds nothing, and collects the second moments of all inputs
    in full precision, which serve any mode.
    prompts: a file, one a line.  n_prompts: how many of them are used.
    at_once: states in a block at a time.  size: WIDTHxHEIGHT of the pictures that are painted; the
    pipeline's own when None.  progress: called with blocks, then with layers.
    Under `torchrun` the prompts, and the rows of a layer, are shared among its processes.
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
    from bonsai_quant.training.distributed import join

    from .run import run

    any_mode = mode or (None if recipe else "ternary")
    planned = plan(source, mode=any_mode, recipe=recipe, solver="exact", formats="bonsai")
    target = default_out(source, "calibration") if out is None else Path(out)
    job = CalibrationJob(pipeline, planned, solver, prompts, n_prompts, at_once, seed, target, size)
    check_output(target, planned.source, overwrite=overwrite)
    with join() as processes:
        record = run(
            job, processes, overwrite=overwrite, resume=resume,
            progress=progress if processes.first else no_progress,
        )  # fmt: skip
    return Calibrated(target, record)


def calibrated(
    source: str, folder: Path, *, mode: str | None, recipe: str | Path | Recipe | None,
    solver: str | None, resume: bool, progress: Progress,
) -> Path:  # fmt: skip
    """A folder with a calibration for a recipe's solver, made with the defaults if it is not there.

    One that is there is taken as it is: `convert` refuses it when it does not fit.
    """
    if folder.exists():
        log.warning("%s: reused", folder)
        return folder
    chosen = solver or choose_recipe(recipe, mode, None)[0].solver
    left = Staging(folder).path.exists()
    calibrate(source, mode=mode, recipe=recipe, solver=chosen, out=folder,
              resume=resume and left, progress=progress)  # fmt: skip
    return folder
