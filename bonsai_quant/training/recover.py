"""From a source to a recovered pack in one call: calibrate, round, train and pack by a recipe."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bonsai_quant.conversion.convert import Converted, convert, write_packs
from bonsai_quant.conversion.options import ConversionOptions
from bonsai_quant.conversion.plan import plan_conversion
from bonsai_quant.conversion.settings import DEFAULT_SOURCE
from bonsai_quant.core.errors import UsageError
from bonsai_quant.core.progress import Progress, no_progress
from bonsai_quant.packs.formats import DEFAULT_FORMATS
from bonsai_quant.packs.output import check_free
from bonsai_quant.quantization.solvers import CALIBRATED
from bonsai_quant.storage.staging import Staging

from .calibrate import calibrate
from .distill import distill
from .recipe import Recovery, load_recovery, recipe_record
from .settings import CalibrationSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Recovered:
    """between: the folders that led to the packs, which may be removed.  packs: the result."""

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
    resume: take the stages that are already finished as they are, up to the first that is not.
    """
    recovery = load_recovery(recipe, None)
    calibrated = recovery.recipe.solver in CALIBRATED
    if not calibrated and recovery.distillation is None:
        raise UsageError(
            "only rounds: its solver needs no calibration, and it has no `distillation`",
            where=str(recipe),
            hint="use `convert`",
        )
    packs = Path(out)
    check_free(packs, overwrite=overwrite)
    stages = _Stages(source, recovery, packs, prompts, seed, overwrite, resume, progress)
    between = []
    if calibrated:
        between.append(stages.calibrate())
    if recovery.distillation is None:
        options = ConversionOptions(recipe=recovery.recipe, calibration=between[-1],
                                    formats=formats)  # fmt: skip
        work = plan_conversion(source, options)
    else:
        if calibrated:
            between.append(stages.round(between[-1]))
        between.append(stages.distill(recipe, between[-1] if between else None))
        final = recovery.recipe.model_copy(update={"solver": "exact"})
        work = plan_conversion(str(between[-1]), ConversionOptions(recipe=final, formats=formats))
    work = replace(work, recovery=recipe_record(recipe, recovery))
    return Recovered(
        tuple(between), write_packs(work, packs, overwrite=overwrite, progress=progress)
    )


@dataclass(slots=True)
class _Stages:
    """The stages before the last, each into a folder beside the packs.

    made: a stage was made by this run, so that none behind it can be reused.
    """

    source: str
    recovery: Recovery
    packs: Path
    prompts: str | None
    seed: int
    overwrite: bool
    resume: bool
    progress: Progress
    made: bool = False

    def calibrate(self) -> Path:
        """Measure inputs into OUT-calibration."""
        out, recipe = self._folder("calibration"), self.recovery.recipe
        settings = self.recovery.calibration or CalibrationSettings()
        if not self._reused(out):
            calibrate(
                self.source, recipe=recipe, solver=recipe.solver, out=out, prompts=self.prompts,
                n_prompts=settings.n_prompts, at_once=settings.at_once, seed=self.seed,
                overwrite=self.overwrite, resume=self._interrupted(out), progress=self.progress,
            )  # fmt: skip
        return out

    def round(self, calibration: Path) -> Path:
        """Convert into OUT-rounded, which the student begins as."""
        out = self._folder("rounded")
        if not self._reused(out):
            convert(
                self.source, recipe=self.recovery.recipe, calibration=calibration, out=out,
                formats="bonsai", overwrite=self.overwrite, resume=self._interrupted(out),
                progress=self.progress,
            )  # fmt: skip
        return out

    def distill(self, recipe: str | Path, start: Path | None) -> Path:
        """Train into OUT-trained."""
        out = self._folder("trained")
        if not self._reused(out):
            distill(
                self.source, recipe=recipe, out=out, start=start, prompts=self.prompts,
                seed=self.seed, progress=self.progress, overwrite=self.overwrite,
                resume=self._interrupted(out),
            )  # fmt: skip
        return out

    def _folder(self, name: str) -> Path:
        return Path(f"{self.packs}-{name}")

    def _reused(self, folder: Path) -> bool:
        """Whether an earlier run has finished a stage, and nothing that it begins with is new."""
        if not self.resume or self.made or self._interrupted(folder) or not os.path.lexists(folder):
            self.made = True
            return False
        log.warning("%s: reused", folder)
        return True

    def _interrupted(self, folder: Path) -> bool:
        """Whether an earlier run has left a stage unfinished."""
        return self.resume and Staging(folder).path.exists()
