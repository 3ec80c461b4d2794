"""What a calibration has to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bonsai_quant.conversion.plan import Plan
from bonsai_quant.core.schema import PackTensor, PictureSettings
from bonsai_quant.packs.pipeline import Pipeline
from bonsai_quant.runners.generate import choose_settings
from bonsai_quant.sources.families import FAMILIES, Family

Part = tuple[str, int]
"""A layer's name and the first of its rows that are weighed together."""


@dataclass(frozen=True, slots=True)
class CalibrationJob:
    """Which layers of which pipeline are calibrated, with what, and where the result goes.

    solver: solves every layer behind those before it; None keeps full precision.
    prompts: a file; None for the shipped ones.  n_prompts: prompts that are used.
    at_once: states in a block at a time.  size: WIDTHxHEIGHT of the pictures; None for the
    pipeline's own.
    """

    pipeline: Pipeline
    plan: Plan
    solver: str | None
    prompts: str | None
    n_prompts: int
    at_once: int
    seed: int
    out: Path
    size: str | None = None

    @property
    def family(self) -> Family:
        """What is known of the model's family."""
        return FAMILIES[self.plan.source.model.family]

    @property
    def pictures(self) -> PictureSettings:
        """How the prompts are painted."""
        return choose_settings(self.pipeline, self.size, None)

    @property
    def layers(self) -> dict[str, PackTensor]:
        """Every packed layer, by the name of its module."""
        return {t.tensor.linear: t.tensor for t in self.plan.tensors if t.tensor.packed}

    @property
    def inputs(self) -> dict[str, str]:
        """Packed layer -> the first of the layers that read the same input."""
        return {linear: self.family.same_input(linear) for linear in self.layers}

    def starts(self, linear: str) -> tuple[int, ...]:
        """The first rows of a layer's parts."""
        return self.family.parts(linear, self.layers[linear].shape)

    def rows(self, linear: str) -> dict[Part, slice]:
        """The rows of each part of a layer."""
        starts = self.starts(linear)
        stops = (*starts[1:], self.layers[linear].shape[0])
        return {(linear, a): slice(a, b) for a, b in zip(starts, stops, strict=True)}

    def stages(self, block: str) -> list[list[str]]:
        """A block's packed layers, stage after stage."""
        names = self.family.stages.get(block.rpartition(".")[0])
        inside = [n for n in self.layers if n.startswith(f"{block}.")]
        if names is None:
            return [inside] if inside else []
        stages = [[n for s in stage if (n := f"{block}.{s}") in self.layers] for stage in names]
        return [stage for stage in stages if stage]
