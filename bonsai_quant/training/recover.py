"""From a source to a recovered pack in one call: calibrate, round, train and pack by a recipe."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bonsai_quant.conversion.convert import Converted, convert, write_packs
from bonsai_quant.conversion.options import ConversionOptions
from bonsai_quant.conversion.plan import plan_conversion
from bonsai_quant.conversion.settings import DEFAULT_SOURCE
from bonsai_quant.core.errors import UsageError
from bonsai_quant.core.progress import Progress, no_progress
from bonsai_quant.core.recipe import Recipe
from bonsai_quant.packs.formats import DEFAULT_FORMATS
from bonsai_quant.packs.output import check_free
from bonsai_quant.quantization.solvers import CALIBRATED
from bonsai_quant.storage.staging import Staging

from .calibrate import calibrate
from .distill import distill
from .recipe import Recovery, load_recovery, recipe_record
from .settings import CalibrationSettings
from .tune import tune

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Recovered:
    """between: the folders that led to the packs, which may be removed.  packs: the result."""

    between: tuple[Path, ...]
    packs: Converted


def recover(
    source: str = DEFAULT_SOURCE,
    *,
    recipe: str | Path | Recovery,
    out: str | Path,
    formats: Sequence[str] | str = DEFAULT_FORMATS,
    prompts: str | None = None,
    seed: int = 0,
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress = no_progress,
) -> Recovered:
    """Go from rung to rung; pack the last one into OUT.

    OUT-calibration, OUT-rounded (a pack), OUT-tuned, OUT-tuned-pack and OUT-trained are what the
    recipe asks for: its solver may need a calibration, and it may have a `tuning` and a
    `distillation`.  The arguments are those of `calibrate`, `tune`, `distill` and `convert`.
    resume: take the stages that are already finished as they are, up to the first that is not.
    """
    recovery = load_recovery(recipe, None)
    calibrated = recovery.recipe.solver in CALIBRATED
    trains = recovery.tuning is not None or recovery.distillation is not None
    if not calibrated and not trains:
        raise UsageError(
            "only rounds: its solver needs no calibration, and it trains nothing",
            where="" if isinstance(recipe, Recovery) else str(recipe),
            hint="use `convert`",
        )
    packs = Path(out)
    check_free(packs, overwrite=overwrite)
    stages = _Stages(source, recovery, packs, prompts, seed, overwrite, resume, progress)
    if calibrated:
        stages.calibrate()
    if not trains:
        options = ConversionOptions(recipe=recovery.recipe, calibration=stages.between[-1],
                                    formats=formats)  # fmt: skip
        work = plan_conversion(source, options)
    else:
        start = stages.round() if calibrated or recovery.tuning is not None else None
        if recovery.tuning is not None and start is not None:
            tuned = stages.tune(recipe, start)
            start = stages.pack(tuned) if recovery.distillation is not None else None
        if recovery.distillation is not None:
            stages.distill(recipe, start)
        work = plan_conversion(
            str(stages.between[-1]), ConversionOptions(recipe=stages.exact, formats=formats)
        )
    work = replace(work, recovery=recipe_record(recipe, recovery))
    return Recovered(
        tuple(stages.between), write_packs(work, packs, overwrite=overwrite, progress=progress)
    )


@dataclass(slots=True)
class _Stages:
    """The stages before the last, each into a folder beside the packs.

    made: a stage was made by this run, so that none behind it can be reused.
    between: the folders so far.
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
    between: list[Path] = field(default_factory=list)

    @property
    def exact(self) -> Recipe:
        """For what lies on the grid already."""
        return self.recovery.recipe.model_copy(update={"solver": "exact"})

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

    def round(self) -> Path:
        """Convert into OUT-rounded, which training begins with."""
        calibration = self.between[-1] if self.between else None
        return self._convert("rounded", self.source, self.recovery.recipe, calibration)

    def pack(self, tuned: Path) -> Path:
        """Convert what was tuned into OUT-tuned-pack, with the same codes."""
        return self._convert("tuned-pack", str(tuned), self.exact, None)

    def _convert(self, name: str, source: str, recipe: Recipe, calibration: Path | None) -> Path:
        out = self._folder(name)
        if not self._reused(out):
            convert(
                source, recipe=recipe, calibration=calibration, out=out, formats="bonsai",
                overwrite=self.overwrite, resume=self._interrupted(out), progress=self.progress,
            )  # fmt: skip
        return out

    def tune(self, recipe: str | Path | Recovery, start: Path) -> Path:
        """Train scales and kept tensors into OUT-tuned."""
        out = self._folder("tuned")
        if not self._reused(out):
            tune(
                self.source, recipe=recipe, out=out, start=start, prompts=self.prompts,
                seed=self.seed, progress=self.progress, overwrite=self.overwrite,
                resume=self._interrupted(out),
            )  # fmt: skip
        return out

    def distill(self, recipe: str | Path | Recovery, start: Path | None) -> Path:
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
        folder = Path(f"{self.packs}-{name}")
        self.between.append(folder)
        return folder

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
