"""The rungs of recovery: what each costs here, what it brought, and which ones fit.

Each rung begins with what the one below it gives, and its result is a pack. Time is counted in
multiplications, at the speed that this machine shows in a product; memory is what each stage counts
before it starts. What a rung brings was measured on mini-klein, not on the model at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bonsai_quant.conversion.plan import Plan, plan
from bonsai_quant.conversion.settings import choose_recipe
from bonsai_quant.core.errors import EnvironmentFault, UsageError
from bonsai_quant.core.memory import available
from bonsai_quant.core.numbers import duration, size
from bonsai_quant.packs.pipeline import Pipeline
from bonsai_quant.packs.provenance_record import RecipeRecord
from bonsai_quant.packs.quality import Share, kept_by

from .calibrate import cost
from .calibrate.job import CalibrationJob
from .compute import device_here
from .distill.distill import open_teacher
from .distill.fit import budget_here, fitted
from .distill.job import DistillationJob
from .distill.memory_need import needed
from .recipe import Recovery
from .settings import CalibrationSettings, DistillationSettings, TuningSettings
from .tune import usual

PASSES = 6
"""Ways through the model for a state that is trained on: it is walked to, the teacher answers, the
student runs, runs again for its gradients, and these take two."""
LEAST_UPDATES = 50
"""A distillation of fewer brings nothing over tuning."""


@dataclass(frozen=True, slots=True)
class Rung:
    """seconds, memory (bytes): of this rung alone.  updates: of a training.

    kept: what packs of it kept of mini-klein's score.  problem: why it is left out, or "".
    """

    name: str
    seconds: float
    memory: int
    updates: int = 0
    kept: Share | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Ladder:
    """rungs: from the lowest.  recovery: those that fit, as a recipe says it."""

    rungs: tuple[Rung, ...]
    recovery: Recovery

    @property
    def seconds(self) -> float:
        """Of all rungs that fit."""
        return sum(r.seconds for r in self.rungs if not r.problem)


def choose_rungs(
    source: str, mode: str, *, hours: float, memory: int | None = None, n_prompts: int = 64
) -> Ladder:
    """Which rungs fit into a time and a memory (what is free here, when None).

    A rung is taken when it and all below it fit; a distillation is cut to the time that is left.
    """
    if hours <= 0:
        raise UsageError(f"{hours:g} hours are no time", hint="give --hours above 0")
    pipeline, work = open_teacher(source), plan(source, mode=mode, formats="unpacked")
    budget, left = memory or available(), hours * 3600
    job = CalibrationJob(pipeline, work, "gptq", None, n_prompts, 1, 0, Path())
    sizes, speed = cost.sizes(job, n_prompts), cost.speed(device_here())
    state = PASSES * cost.forward(job, sizes) / speed
    calibrated = Rung(
        "calibrate and round", cost.work(job, sizes).total / speed,
        sum(cost.memory(job, sizes).values()), kept=kept_by(mode, "gptq"),
    )  # fmt: skip
    tuning, distillation = usual(mode), DistillationSettings(average=0, freeze=0)
    tuned = Rung(
        "tune", tuning.steps * tuning.batch * state, _memory(pipeline, work, tuning),
        tuning.steps, kept_by(mode, "tuned"),
    )  # fmt: skip
    spare = left - calibrated.seconds - tuned.seconds
    updates = max(LEAST_UPDATES, min(distillation.steps, int(spare / (distillation.batch * state))))
    distillation = _saving(
        pipeline, work, distillation.model_copy(update={"steps": updates}), budget
    )
    trained = Rung(
        "distill", updates * distillation.batch * state, _memory(pipeline, work, distillation),
        updates, kept_by(mode, "trained"),
    )  # fmt: skip
    rungs = _fitting((calibrated, tuned, trained), left, budget)
    return Ladder(rungs, _recovery(mode, rungs, n_prompts, tuning, distillation))


def _memory(pipeline: Pipeline, work: Plan, settings: DistillationSettings) -> int:
    """What a training counts before it starts."""
    job = _job(pipeline, work, settings)
    return sum(needed(job, 1, half=device_here().type == "cuda").values())


def _saving(
    pipeline: Pipeline, work: Plan, settings: DistillationSettings, memory: int
) -> DistillationSettings:
    """The settings with the savings of `distill --fit`; as they are where none is enough."""
    try:
        return fitted(_job(pipeline, work, settings), budget_here(memory, 1)).settings
    except EnvironmentFault:
        return settings


def _job(pipeline: Pipeline, work: Plan, settings: DistillationSettings) -> DistillationJob:
    nothing = RecipeRecord(name="", sha256="")
    return DistillationJob(pipeline, work, settings, None, 0, Path(), nothing)


def _fitting(rungs: Sequence[Rung], seconds: float, memory: int) -> tuple[Rung, ...]:
    """The rungs with what keeps each from being taken."""
    result: list[Rung] = []
    for rung in rungs:
        problem = ""
        if result and result[-1].problem:
            problem = "the rung below it is missing"
        elif rung.memory > memory:
            problem = f"needs {size(rung.memory)}; {size(memory)} may be used"
        elif rung.seconds > seconds:
            problem = f"takes {duration(rung.seconds)}; {duration(max(0.0, seconds))} are left"
        else:
            seconds -= rung.seconds
        result.append(replace(rung, problem=problem))
    return tuple(result)


def _recovery(
    mode: str, rungs: Sequence[Rung], n_prompts: int, tuning: TuningSettings,
    distillation: DistillationSettings,
) -> Recovery:  # fmt: skip
    calibrated, tuned, trained = (not rung.problem for rung in rungs)
    recipe, _ = choose_recipe(None, mode, "gptq" if calibrated else "exact")
    return Recovery(
        recipe.model_copy(update={"description": ""}),
        CalibrationSettings(n_prompts=n_prompts) if calibrated else None,
        tuning if tuned else None,
        distillation if trained else None,
    )
