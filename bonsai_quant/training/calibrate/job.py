"""What a calibration is told to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bonsai_quant.conversion.plan import Plan
from bonsai_quant.packs.pipeline import Pipeline
from bonsai_quant.sources.families import FAMILIES, Family


@dataclass(frozen=True, slots=True)
class CalibrationJob:
    """What is to be done. mode: of the plan; solver: None for moments of the full precision."""

    place: Pipeline
    plan: Plan
    solver: str | None
    prompts: str | None
    samples: int
    at_once: int
    seed: int
    out: Path

    @property
    def family(self) -> Family:
        """What is known of the model's family."""
        return FAMILIES[self.plan.source.model.family]

    @property
    def inputs(self) -> dict[str, str]:
        """Packed layer -> the first of those that read the same input."""
        linears = [t.tensor.linear for t in self.plan.tensors if t.tensor.packed]
        return {linear: self.family.same_input(linear) for linear in linears}
