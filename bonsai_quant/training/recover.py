"""From a source to a recovered pack in one call: look, round, train and pack as a recipe says."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bonsai_quant.conversion.convert import Converted, convert
from bonsai_quant.conversion.settings import DEFAULT_SOURCE
from bonsai_quant.core.errors import UsageError
from bonsai_quant.core.recipe import Calibrating
from bonsai_quant.core.schema import DEFAULT_FORMATS, Progress, no_progress
from bonsai_quant.packs.output import check_free
from bonsai_quant.quantization.solvers import CALIBRATED

from .calibrate import calibrate
from .distill import distill
from .recipe import Recovery, load_recovery


@dataclass(frozen=True, slots=True)
class Recovered:
    """What was made. between: the folders that led to the packs, and may go."""

    between: tuple[Path, ...]
    packs: Converted


def recover(
    source: str = DEFAULT_SOURCE,
    *,
    recipe: str | Path,
    out: str | Path,
    formats: Sequence[str] | str = DEFAULT_FORMATS,
    prompts: str | None = None,
    seed: int = 0,
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress = no_progress,
) -> Recovered:
    """Calibrate, round and distil into OUT-calibration, OUT-rounded and OUT-trained; pack into OUT.

    The recipe says which of these there are: its solver may need a calibration, and it may have a
    `distillation`.  The arguments are those of `calibrate`, `distill` and `convert`.
    resume: what is already finished is taken as it is.
    """
    said = load_recovery(recipe, None)
    calibrated = said.recipe.solver in CALIBRATED
    if not calibrated and said.distillation is None:
        raise UsageError(
            "only rounds: its solver needs no calibration, and it has no `distillation`",
            where=str(recipe),
            hint="use `convert`",
        )
    packs = Path(out)
    check_free(packs, overwrite=overwrite)
    calls = _Calls(source, said, packs, prompts, seed, overwrite, resume, progress)
    between = []
    if calibrated:
        between.append(calls.calibrate())
    if said.distillation is None:
        made = convert(source, recipe=said.recipe, calibration=between[-1], out=packs,
                       formats=formats, overwrite=overwrite)  # fmt: skip
        return Recovered(tuple(between), made)
    if calibrated:
        between.append(calls.round(between[-1]))
    between.append(calls.distill(recipe, between[-1] if between else None))
    final = said.recipe.model_copy(update={"solver": "exact"})
    made = convert(str(between[-1]), recipe=final, out=packs, formats=formats, overwrite=overwrite)
    return Recovered(tuple(between), made)


@dataclass(frozen=True, slots=True)
class _Calls:
    """The stages before the last, each into a folder beside the packs."""

    source: str
    said: Recovery
    packs: Path
    prompts: str | None
    seed: int
    overwrite: bool
    resume: bool
    progress: Progress

    def calibrate(self) -> Path:
        asked = self.said.calibration or Calibrating()
        recipe = self.said.recipe
        return self._stage("calibration", lambda out, how: calibrate(
            self.source, recipe=recipe, solver=recipe.solver, out=out, prompts=self.prompts,
            seed=self.seed, samples=asked.samples, at_once=asked.at_once, **how,
        ))  # fmt: skip

    def round(self, calibration: Path) -> Path:
        return self._stage("rounded", lambda out, how: convert(
            self.source, recipe=self.said.recipe, calibration=calibration, out=out,
            formats="bonsai", **how,
        ))  # fmt: skip

    def distill(self, recipe: str | Path, start: Path | None) -> Path:
        return self._stage("trained", lambda out, how: distill(
            self.source, recipe=recipe, out=out, start=start, prompts=self.prompts,
            seed=self.seed, progress=self.progress, **how,
        ))  # fmt: skip

    def _stage(self, name: str, make: Any) -> Path:
        out = Path(f"{self.packs}-{name}")
        if not (self.resume and os.path.lexists(out)):
            make(out, {"overwrite": self.overwrite, "resume": self.resume})
        return out
