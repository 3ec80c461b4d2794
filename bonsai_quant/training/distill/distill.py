"""From a pipeline to one whose packed layers lie on their grid, step by step, resumable."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bonsai_quant.conversion.plan import Plan, plan
from bonsai_quant.conversion.settings import DEFAULT_SOURCE, default_out
from bonsai_quant.core.errors import BadInput, UsageError
from bonsai_quant.core.progress import Progress, no_progress
from bonsai_quant.core.recipe import Recipe
from bonsai_quant.core.requirements import LOOK, RUN, require
from bonsai_quant.packs.find import find_packs
from bonsai_quant.packs.integrity import require_whole
from bonsai_quant.packs.output import check_output
from bonsai_quant.packs.pipeline import Pipeline, locate
from bonsai_quant.packs.read import Pack, open_pack
from bonsai_quant.training.recipe import Recovery, load_recovery, recipe_record, with_changes
from bonsai_quant.training.settings import DistillationSettings

from .fit import Budget, budget_here, fitted
from .job import DistillationJob
from .record import DistillationRecord

SAVE_EVERY = 600.0
"""Seconds between checkpoints."""


@dataclass(frozen=True, slots=True)
class Distilled:
    """out: a whole pipeline.  record: what distillation.json holds, but for its provenance.

    The record is None in the processes of torchrun that are not the first.
    """

    out: Path
    record: DistillationRecord | None


def distill(
    source: str = DEFAULT_SOURCE,
    *,
    mode: str | None = None,
    recipe: str | Path | Recipe | Recovery | None = None,
    out: str | Path | None = None,
    start: str | Path | None = None,
    prompts: str | None = None,
    seed: int = 0,
    overwrite: bool = False,
    resume: bool = False,
    save_every: float = SAVE_EVERY,
    max_memory: int | None = None,
    fit: int | None = None,
    changes: Mapping[str, Any] = {},
    progress: Progress = no_progress,
) -> Distilled:
    """Distil a pipeline into one on the grid of a mode, in OUT (`./<name>-<mode>-distilled`).

    recipe: a file whose `distillation` says how (training.settings); its other fields as in
    `convert`.  start: a pack of the same model, as `gptq` leaves it, for the student to begin as.
    prompts: a file, one a line.  changes: of the distillation's settings.
    max_memory: bytes of each device that may be used.  fit: the same, and what it takes to need no
    more is done, in the order of `training.distill.fit`.  progress: called with updates.
    Under `torchrun` the model is sharded among its processes (FSDP2).
    """
    budget = None if fit is None else budget_here(fit, started_processes())
    job = prepare(source, mode=mode, recipe=recipe, out=out, prompts=prompts, seed=seed,
                  changes=changes, start=start, budget=budget)  # fmt: skip
    return carry_out(job, overwrite=overwrite, resume=resume, save_every=save_every,
                     max_memory=max_memory, progress=progress)  # fmt: skip


def carry_out(
    job: DistillationJob, *, overwrite: bool, resume: bool, save_every: float,
    max_memory: int | None, progress: Progress,
) -> Distilled:  # fmt: skip
    """Train, in this process and in those that torchrun started beside it."""
    require((*RUN, *LOOK), "train")  # without matplotlib nothing is drawn
    from bonsai_quant.training.distributed import join

    from .run import run

    check_output(job.out, job.plan.source, overwrite=overwrite)
    with join() as processes:
        record = run(
            job, processes, overwrite=overwrite, resume=resume, save_every=save_every,
            max_memory=max_memory, progress=progress if processes.first else no_progress,
        )  # fmt: skip
    return Distilled(job.out, record)


def prepare(
    source: str, *, mode: str | None, recipe: str | Path | Recipe | Recovery | None,
    out: str | Path | None = None, prompts: str | None = None, seed: int = 0,
    changes: Mapping[str, Any] = {}, start: str | Path | None = None,
    budget: Budget | None = None,
) -> DistillationJob:  # fmt: skip
    """Check all that can be refused before anything is loaded; -> what there is to do.

    budget: the settings are changed until they need no more.
    """
    recovery = load_recovery(recipe, mode)
    settings = with_changes(recovery.distillation or DistillationSettings(), changes)
    pipeline = open_teacher(source)
    # Whatever solver the recipe names: the trained weights lie on the grid already.
    planned = plan(source, mode=mode, recipe=recovery.recipe, solver="exact", formats="unpacked")
    target = (
        Path(f"{default_out(source, planned.info.mode)}-distilled") if out is None else Path(out)
    )
    first = None if start is None else open_start(start, planned)
    written = recipe_record(recipe, replace(recovery, distillation=settings))
    job = DistillationJob(pipeline, planned, settings, prompts, seed, target, written, first)
    if budget is None:
        return job
    job = fitted(job, budget)
    return replace(job, recipe=recipe_record(recipe, replace(recovery, distillation=job.settings)))


def started_processes() -> int:
    """How many torchrun has started, this one among them."""
    return int(os.environ.get("WORLD_SIZE", 1))


def open_teacher(source: str) -> Pipeline:
    """The full-precision pipeline to learn from."""
    pipeline = locate(source)
    if pipeline.pack is not None:
        raise UsageError("is a pack: there is nothing to learn from", where=source,
                         hint="give the full-precision pipeline")  # fmt: skip
    return pipeline


def open_start(start: str | Path, planned: Plan) -> Pack:
    """The pack to begin as, if it is one of this model with the same layers packed."""
    folders = find_packs(Path(start))
    if not folders:
        raise UsageError(f"no pack in {str(start)[:300]!r}", hint="give one of this model")
    pack = open_pack(folders[0])
    if pack.info.tensors != planned.info.tensors:
        raise BadInput(
            f"is no {planned.info.mode} pack of this model with the same layers packed",
            where=str(start),
            hint="convert the same source by the same recipe",
        )
    require_whole(pack)
    return pack
