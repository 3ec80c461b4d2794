"""From a pack to a better one with the same codes: its scales and kept tensors are trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bonsai_quant.conversion.plan import plan
from bonsai_quant.conversion.settings import DEFAULT_SOURCE, default_out
from bonsai_quant.core.errors import BadInput, UsageError
from bonsai_quant.core.progress import Progress, no_progress
from bonsai_quant.core.recipe import Recipe
from bonsai_quant.packs.find import require_packs
from bonsai_quant.packs.read import open_pack

from .distill.distill import SAVE_EVERY, Distilled, carry_out, open_start, open_teacher
from .distill.job import DistillationJob
from .recipe import Recovery, load_recovery, recipe_record, with_changes
from .settings import TuningSettings

BINARY = {"rate": 2e-3, "kept_rate": 1e-3}
"""Where these settings differ in binary, unless a recipe says so."""


def tune(
    source: str = DEFAULT_SOURCE,
    *,
    start: str | Path,
    recipe: str | Path | Recipe | Recovery | None = None,
    out: str | Path | None = None,
    prompts: str | None = None,
    seed: int = 0,
    overwrite: bool = False,
    resume: bool = False,
    save_every: float = SAVE_EVERY,
    max_memory: int | None = None,
    changes: Mapping[str, Any] = {},
    progress: Progress = no_progress,
) -> Distilled:
    """Train the scales and the kept tensors of a pack, into OUT (`./<name>-<mode>-tuned`).

    start: the pack. Its codes stay as they are; `convert` gives them again from OUT.
    recipe: a file whose `tuning` says how (training.settings.TuningSettings).
    The other arguments are those of `distill`.
    """
    job = prepare(source, start=start, recipe=recipe, out=out, prompts=prompts, seed=seed,
                  changes=changes)  # fmt: skip
    return carry_out(job, overwrite=overwrite, resume=resume, save_every=save_every,
                     max_memory=max_memory, progress=progress)  # fmt: skip


def prepare(
    source: str, *, start: str | Path, recipe: str | Path | Recipe | Recovery | None = None,
    out: str | Path | None = None, prompts: str | None = None, seed: int = 0,
    changes: Mapping[str, Any] = {},
) -> DistillationJob:  # fmt: skip
    """Check all that can be refused before anything is loaded; -> what there is to do."""
    pipeline = open_teacher(source)
    rules = _rules(start)
    recovery = Recovery(rules) if recipe is None else load_recovery(recipe, None)
    if recovery.recipe.mode != rules.mode:
        raise UsageError(
            f"is for {recovery.recipe.mode} packs, and {start} is {rules.mode}",
            where=str(recipe),
            hint="give the recipe of this mode",
        )
    settings = with_changes(recovery.tuning or usual(rules.mode), changes)
    planned = plan(source, recipe=rules, solver="exact", formats="unpacked")
    target = Path(f"{default_out(source, planned.info.mode)}-tuned") if out is None else Path(out)
    named = recipe_record(recipe, replace(recovery, tuning=settings))
    first = open_start(start, planned)
    return DistillationJob(pipeline, planned, settings, prompts, seed, target, named, first)


def usual(mode: str) -> TuningSettings:
    """The settings where no recipe gives any."""
    return TuningSettings.model_validate(BINARY if mode == "binary" else {})


def _rules(start: str | Path) -> Recipe:
    """The recipe that the pack itself was made by."""
    manifest = open_pack(require_packs(Path(start))[0]).manifest
    if manifest is None:
        raise BadInput(
            "has no manifest that says how its layers are packed", where=str(start),
            hint="convert the source with this program",
        )  # fmt: skip
    return Recipe.model_validate({**manifest.recipe, "solver": "exact"})
