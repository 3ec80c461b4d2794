"""What a recipe may ask for before rounding: its `calibration` and its `distillation`."""

from __future__ import annotations

import pydantic


class Calibrating(pydantic.BaseModel):
    """How inputs are looked at, for the recipe's solver. samples: prompts.  at_once: states."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)
    samples: int = pydantic.Field(default=64, ge=1)
    at_once: int = pydantic.Field(default=8, ge=1)


class Distillation(pydantic.BaseModel):
    """The settings of a training run. The defaults are for models of billions of weights.

    steps: updates.  batch: states that the loss of one update is taken over, in all processes.
    at_once: of those, on one device at a time.
    rate, kept_rate: of Adam, for the latent weights of packed layers, and for what is kept.
    own: share of updates on the student's own way from noise to picture, at the beginning and at
    the end; the others are on the teacher's.
    average: decay of the running mean, which is what is stored in the end; 0 for none.
    warm, fall: shares of the run in which the rate rises, and falls.
    freeze: share of the run, its last part, in which codes that jump to and fro are held.
    weights: of the sampler's steps in the loss, first step first; equal when empty.
    exam: updates between looks at held-out prompts.  prompts: at most so many are used.
    checkpointing: compute blocks again for their gradient rather than keep what they computed.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)
    steps: int = pydantic.Field(default=10_000, ge=1)
    batch: int = pydantic.Field(default=32, ge=1)
    at_once: int = pydantic.Field(default=4, ge=1)
    rate: float = pydantic.Field(default=2e-5, gt=0, le=1)
    kept_rate: float = pydantic.Field(default=4e-6, ge=0, le=1)
    own: tuple[float, float] = (0.3, 0.7)
    average: float = pydantic.Field(default=0.999, ge=0, lt=1)
    warm: float = pydantic.Field(default=0.02, ge=0, le=1)
    fall: float = pydantic.Field(default=0.5, gt=0, le=1)
    freeze: float = pydantic.Field(default=0.1, ge=0, le=1)
    weights: tuple[float, ...] = ()
    exam: int = pydantic.Field(default=500, ge=1)
    prompts: int | None = pydantic.Field(default=None, ge=1)
    checkpointing: bool = True

    def speed(self, step: int) -> float:
        """Share of the full rate at a step: up, level, and down to nothing."""
        up = (step + 1) / max(1.0, self.warm * self.steps)
        down = (self.steps - step) / (self.fall * self.steps)
        return min(1.0, up, down)

    def owned(self, step: int) -> float:
        """How likely the states of a step are the student's own."""
        start, end = self.own
        return start + (end - start) * step / max(1, self.steps - 1)

    def freezes(self, step: int) -> bool:
        """Whether codes that jump are held at this step."""
        return step >= (1 - self.freeze) * self.steps and self.freeze > 0
