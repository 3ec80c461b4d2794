"""How quality is recovered: the settings of a calibration and of a distillation."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import pydantic
from pydantic import AliasChoices, Field, SerializerFunctionWrapHandler, model_serializer

_STRICT = pydantic.ConfigDict(extra="forbid", frozen=True)


class CalibrationSettings(pydantic.BaseModel):
    """How inputs are measured for the recipe's solver.

    n_prompts: prompts that are used, formerly `samples`.  at_once: states in a block at a time.
    """

    model_config = _STRICT
    n_prompts: int = Field(default=64, ge=1, validation_alias=AliasChoices("n_prompts", "samples"))
    at_once: int = Field(default=8, ge=1)


Saving = Literal[
    "teacher-offloaded", "mean-offloaded", "gradients-offloaded", "8bit-moments", "bf16-latents"
]
"""A way to hold less on the device. What is offloaded lies in main memory (training.distill)."""


class DistillationSettings(pydantic.BaseModel):
    """The settings of a training run. The defaults are for models of billions of weights.

    steps: updates.  batch: states that the loss of one update is taken over, in all processes.
    at_once: how many of those are on one device at a time.
    rate, kept_rate: learning rates of Adam, for the latent weights of packed layers and for the
    kept tensors.
    own: share of updates that learn from the student's own path from noise to picture, at the
    beginning and at the end; the others learn from the teacher's.
    average: decay of the running mean of the weights, which is what is stored; 0 for none.
    warm, fall: shares of the run in which the rate rises, and falls.
    freeze: share of the run, its last part, in which codes that keep changing are held.
    weights: weight of each of the sampler's steps in the loss; equal when empty.
    validate_every: updates between two validations, formerly `exam`.
    prompts: the largest number of prompts that are used.
    checkpointing: compute blocks again for their gradient rather than keep what they computed.
    savings: what is kept elsewhere or in fewer bits, so that a run fits; `--fit` picks them.
    """

    model_config = _STRICT
    section: ClassVar[Literal["distillation", "tuning"]] = "distillation"
    steps: int = Field(default=10_000, ge=1)
    batch: int = Field(default=32, ge=1)
    at_once: int = Field(default=4, ge=1)
    rate: float = Field(default=2e-5, gt=0, le=1)
    kept_rate: float = Field(default=4e-6, ge=0, le=1)
    own: tuple[float, float] = (0.3, 0.7)
    average: float = Field(default=0.999, ge=0, lt=1)
    warm: float = Field(default=0.02, ge=0, le=1)
    fall: float = Field(default=0.5, gt=0, le=1)
    freeze: float = Field(default=0.1, ge=0, le=1)
    weights: tuple[float, ...] = ()
    # Records on disk go on to say `exam`, so that they keep their bytes.
    validate_every: int = Field(
        default=500,
        ge=1,
        validation_alias=AliasChoices("validate_every", "exam"),
        serialization_alias="exam",
    )
    prompts: int | None = Field(default=None, ge=1)
    checkpointing: bool = True
    savings: tuple[Saving, ...] = ()

    @model_serializer(mode="wrap")
    def _without_no_savings(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Records of runs without savings keep their bytes."""
        data: dict[str, Any] = write(self)
        if not self.savings:
            data.pop("savings", None)
        return data

    def rate_share(self, step: int) -> float:
        """Share of the full learning rate at a step: up, level, and down to nothing."""
        up = (step + 1) / max(1.0, self.warm * self.steps)
        down = (self.steps - step) / (self.fall * self.steps)
        return min(1.0, up, down)

    def own_share(self, step: int) -> float:
        """How likely it is that a step learns from the student's own path."""
        start, end = self.own
        return start + (end - start) * step / max(1, self.steps - 1)

    def freezes(self, step: int) -> bool:
        """Whether codes that keep changing are held at this step."""
        return step >= (1 - self.freeze) * self.steps and self.freeze > 0


class TuningSettings(DistillationSettings):
    """A training that changes scales and kept tensors, and no code. It begins with a pack.

    rate: of the logarithms of scales.
    """

    section: ClassVar[Literal["distillation", "tuning"]] = "tuning"
    steps: int = Field(default=120, ge=1)
    batch: int = Field(default=64, ge=1)
    rate: float = Field(default=1e-3, gt=0, le=1)
    kept_rate: float = Field(default=5e-4, ge=0, le=1)
    average: float = Field(default=0.98, ge=0, lt=1)
    freeze: float = Field(default=0.0, ge=0, le=0)
    savings: tuple[()] = ()
    validate_every: int = Field(
        default=40,
        ge=1,
        validation_alias=AliasChoices("validate_every", "exam"),
        serialization_alias="exam",
    )
