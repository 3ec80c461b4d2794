"""What a distillation has to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bonsai_quant.conversion.plan import Plan
from bonsai_quant.packs.pipeline import Pipeline
from bonsai_quant.packs.provenance_record import RecipeRecord
from bonsai_quant.packs.read import Pack
from bonsai_quant.training.settings import DistillationSettings, TuningSettings


@dataclass(frozen=True, slots=True)
class DistillationJob:
    """Which layers of which pipeline are trained, how, and where the result goes.

    start: where the student's weights come from, if not from the pipeline.
    recipe: what a user gave or would have to give for these settings.
    """

    pipeline: Pipeline
    plan: Plan
    settings: DistillationSettings
    prompts: str | None
    seed: int
    out: Path
    recipe: RecipeRecord
    start: Pack | None = None

    @property
    def tunes(self) -> bool:
        """Whether codes stay as the start has them."""
        return isinstance(self.settings, TuningSettings)

    @property
    def modes(self) -> dict[str, str]:
        """Mode by name of every layer that will be packed."""
        return {t.tensor.linear: t.tensor.action for t in self.plan.tensors if t.tensor.packed}
