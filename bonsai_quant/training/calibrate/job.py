"""What a calibration has to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bonsai_quant.conversion.plan import Plan
from bonsai_quant.packs.pipeline import Pipeline
from bonsai_quant.sources.families import FAMILIES, Family


@dataclass(frozen=True, slots=True)
class CalibrationJob:
    """Which layers of which pipeline are calibrated, with what, and where the result goes.

    solver: rounds each block before the next is run; None keeps full precision.
    prompts: a file; None for the shipped ones.  n_prompts: prompts that are used.
    at_once: states in a block at a time.
    """

    pipeline: Pipeline
    plan: Plan
    solver: str | None
    prompts: str | None
    n_prompts: int
    at_once: int
    seed: int
    out: Path

    @property
    def family(self) -> Family:
        """What is known of the model's family."""
        return FAMILIES[self.plan.source.model.family]

    @property
    def inputs(self) -> dict[str, str]:
        """Packed layer -> the first of the layers that read the same input."""
        linears = [t.tensor.linear for t in self.plan.tensors if t.tensor.packed]
        return {linear: self.family.same_input(linear) for linear in linears}
