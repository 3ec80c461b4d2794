"""From a pipeline to one whose packed layers lie on their grid, step by step, resumable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..convert import check_output
from ..errors import UsageError
from ..needs import RUN, TRAIN, require
from ..plan import Plan, plan
from ..recipe import Recipe
from ..runners.places import Place, locate
from ..schema import Progress, no_progress
from ..settings import DEFAULT_SOURCE, default_out
from ..training import Distillation

if TYPE_CHECKING:
    pass

SAVE_EVERY = 600.0
"""Seconds between checkpoints."""


@dataclass(frozen=True, slots=True)
class Distilled:
    """What a run made. out: a whole pipeline.  record: what distillation.json says.

    None in the processes of torchrun that are not the first.
    """

    out: Path
    record: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be done: which layers of which pipeline, how, and where the result goes."""

    place: Place
    plan: Plan
    settings: Distillation
    prompts: str | None
    seed: int
    out: Path

    @property
    def modes(self) -> dict[str, str]:
        """Mode by name of every layer that will be packed."""
        return {t.tensor.linear: t.tensor.action for t in self.plan.tensors if t.tensor.packed}


def distill(
    source: str = DEFAULT_SOURCE,
    *,
    mode: str | None = None,
    recipe: str | Path | Recipe | None = None,
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
    """Distil a pipeline into one on the grid of a mode, in OUT (`./<name>-<mode>-distilled`).

    recipe: a file whose `distillation` says how (training.Distillation); its other fields as in
    `convert`.  prompts: a file, one a line.  changes: of the distillation's settings.
    max_memory: bytes of each device that may be used.  progress: called with updates.
    Under `torchrun` the model is cut among its processes (FSDP2).
    """
    require((*RUN, *TRAIN), "train")
    from .ranks import join
    from .run import run

    work = prepare(
        source, mode=mode, recipe=recipe, out=out, prompts=prompts, seed=seed, changes=changes
    )
    check_output(work.out, work.plan, overwrite=overwrite)
    with join() as ranks:
        record = run(
            work, ranks, overwrite=overwrite, resume=resume, save_every=save_every,
            max_memory=max_memory, progress=progress if ranks.first else no_progress,
        )  # fmt: skip
    return Distilled(work.out, record)


def prepare(
    source: str, *, mode: str | None, recipe: str | Path | Recipe | None, out: str | Path | None,
    prompts: str | None, seed: int, changes: Mapping[str, Any],
) -> Work:  # fmt: skip
    """Everything that can be refused before anything is loaded."""
    from ..recovery import load_recovery, with_changes

    said = load_recovery(recipe, mode)
    settings = with_changes(said.distillation or Distillation(), changes)
    place = locate(source)
    if place.pack is not None:
        raise UsageError("is a pack: there is nothing to learn from", where=source,
                         hint="give the full-precision pipeline")  # fmt: skip
    work = plan(source, mode=mode, recipe=said.recipe, formats="unpacked")
    target = Path(f"{default_out(source, work.info.mode)}-distilled") if out is None else Path(out)
    return Work(place, work, settings, prompts, seed, target)
