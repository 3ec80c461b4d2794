"""calibration.json, of either kind."""

from __future__ import annotations

from typing import Literal

import pydantic

from bonsai_quant.packs.provenance_record import ComputeRecord, PromptsRecord

RECORD, MOMENTS, CODES = "calibration.json", "moments.safetensors", "codes.safetensors"


class _Record(pydantic.BaseModel):
    """What both kinds say.

    source: sha256 of its files, by name.
    states: how many were looked at on the way from noise to picture, formerly `samples`.
    n_prompts, at_once, picture_size: as asked for.
    compute: with what; None in records of earlier versions.
    sha256, size: of the tensors.  files: all that belong to it.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)
    tool: dict[str, str]
    base: str
    source: dict[str, str]
    prompts: PromptsRecord
    states: int = pydantic.Field(validation_alias=pydantic.AliasChoices("states", "samples"))
    seed: int
    n_prompts: int | None = None
    at_once: int | None = None
    picture_size: str | None = None
    compute: ComputeRecord | None = None
    sha256: str
    size: int
    files: list[str]


class MomentsRecord(_Record):
    """inputs: layer -> tensor in the file.  Nothing was rounded: mode and solver are None."""

    schema_version: Literal[1]
    mode: None = None
    solver: None = None
    inputs: dict[str, str]


class SolvedLayer(pydantic.BaseModel):
    """Square error of a layer's outputs over their square, on its recorded inputs.

    error: of the codes.  nearest: of the codes nearest to the source's weights.
    starts: the first rows of its parts, whose tokens were weighed apart.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)
    error: float
    nearest: float
    starts: tuple[int, ...] = (0,)


class CodesRecord(_Record):
    """Every layer is solved, behind those before it. layers: by name."""

    schema_version: Literal[2]
    mode: str
    solver: str
    layers: dict[str, SolvedLayer]


CalibrationRecord = MomentsRecord | CodesRecord
