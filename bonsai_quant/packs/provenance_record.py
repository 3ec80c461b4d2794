"""How a pack came to be when there was more than rounding: every stage, and what it was given."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic

from .source_record import SourceRecord

_STRICT = pydantic.ConfigDict(extra="forbid", frozen=True)


class RecipeRecord(pydantic.BaseModel):
    """A recipe. name: of a shipped one, without `.yaml`, or of a file.

    sha256: of what it says, as JSON with sorted keys.  content: the same in full; None where the
    name is that of a shipped recipe.
    """

    model_config = _STRICT
    name: str
    sha256: str
    content: dict[str, Any] | None = None


class PromptsRecord(pydantic.BaseModel):
    """The prompts that were used: their number and the sha256 of their text.

    file: name of the user's own list; None for the list that comes with the program.
    """

    model_config = _STRICT
    number: int
    sha256: str
    file: str | None = None


class ComputeRecord(pydantic.BaseModel):
    """What decides the order in which numbers are added, and with it the last bits of a result.

    device: `cpu`, or the name of the GPU.  instructions: the widest that torch uses on this CPU.
    threads: of each of the processes.
    """

    model_config = _STRICT
    torch: str
    device: str
    instructions: str
    threads: int
    processes: int = 1


class CalibrationStage(pydantic.BaseModel):
    """Inputs of the layers were measured. sha256: of calibration.json.

    mode, solver: of what the layers before each block were rounded with; None for none.
    n_prompts: as asked for.  at_once: states in a block at a time.  states: how many were seen.
    """

    model_config = _STRICT
    stage: Literal["calibration"] = "calibration"
    version: str
    sha256: str
    mode: str | None
    solver: str | None
    prompts: PromptsRecord
    n_prompts: int | None
    at_once: int | None
    states: int
    seed: int
    compute: ComputeRecord | None = None


class FoldingStage(pydantic.BaseModel):
    """The source was rewritten to compute the same and round better."""

    model_config = _STRICT
    stage: Literal["folding"] = "folding"
    version: str
    moves: list[str]


class RoundingStage(pydantic.BaseModel):
    """Codes and scales were chosen. recipe: as it was used, with its solver."""

    model_config = _STRICT
    stage: Literal["rounding"] = "rounding"
    version: str
    recipe: dict[str, Any]


class TrainingStage(pydantic.BaseModel):
    """Codes and scales were trained, with the source as the teacher.

    kind: `tuning` where codes stayed as they were.
    recipe: with the settings below, and the name that a user may type.  mode: of the codes.
    updates, batch: of the settings, again.  start: sha256 of the manifest of the pack that training
    began with; None where it began with the source.
    held_out: the last validation: its step, the error, and the score where a checker can tell.
    """

    model_config = _STRICT
    stage: Literal["training"] = "training"
    # Not written for distillations, whose records keep the bytes that they had.
    kind: Literal["distillation", "tuning"] = pydantic.Field(
        default="distillation", exclude_if=lambda kind: kind == "distillation"
    )
    version: str
    mode: str
    recipe: RecipeRecord
    settings: dict[str, Any]
    updates: int
    batch: int
    seed: int
    prompts: PromptsRecord
    start: str | None
    held_out: dict[str, float] | None = None
    compute: ComputeRecord | None = None


Stage = Annotated[
    CalibrationStage | FoldingStage | RoundingStage | TrainingStage,
    pydantic.Field(discriminator="stage"),
]


class ProvenanceRecord(pydantic.BaseModel):
    """The stages, in order, from the model that it all began with.

    source: that model.  recovery: the recipe, where `recover` did it all.
    relative_error: ||w - s t|| / ||w|| over all packed layers, w being the weights of that model;
    None where it is not known, or where folding makes the two incomparable.
    layers: the same by layer; empty where layers.csv has it.
    note: what else a reader must know, if anything.
    """

    model_config = _STRICT
    source: SourceRecord
    recovery: RecipeRecord | None = None
    stages: list[Stage]
    relative_error: float | None = None
    layers: dict[str, float] = {}
    note: str | None = None

    @property
    def training(self) -> TrainingStage | None:
        """The last training, if there was one."""
        return next((s for s in reversed(self.stages) if isinstance(s, TrainingStage)), None)
