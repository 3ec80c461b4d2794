"""benchmark.json: how the pictures of a pipeline are made when it is scored, and what they show."""

from __future__ import annotations

from pathlib import Path

import pydantic

from bonsai_quant.core.errors import BadInput, first_problem
from bonsai_quant.core.schema import PictureSettings
from bonsai_quant.storage.strict_json import read_json

NAME = "benchmark.json"
MAX_SIDE, MAX_STEPS, MAX_TOKENS = 4096, 1000, 4096


class Benchmark(pydantic.BaseModel):
    """The file beside model_index.json. The defaults are FLUX.2 Klein's own settings.

    world: what captions are about, by the name that the benchmark knows it by.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True)
    world: str = "small"
    height: int = pydantic.Field(default=512, ge=16, le=MAX_SIDE)
    width: int = pydantic.Field(default=512, ge=16, le=MAX_SIDE)
    num_inference_steps: int = pydantic.Field(default=4, ge=1, le=MAX_STEPS)
    guidance_scale: float = pydantic.Field(default=1.0, ge=0, le=100, allow_inf_nan=False)
    max_sequence_length: int = pydantic.Field(default=512, ge=1, le=MAX_TOKENS)

    @property
    def settings(self) -> PictureSettings:
        """How one picture is made."""
        return PictureSettings(**self.model_dump(exclude={"world"}))


def read_benchmark(folder: Path) -> Benchmark:
    """The settings of a pipeline's folder; the defaults where it has no benchmark.json."""
    path = folder / NAME
    if not path.exists():
        return Benchmark()
    try:
        return Benchmark.model_validate(read_json(path))
    except pydantic.ValidationError as e:
        raise BadInput(first_problem(e), where=str(path), hint="correct the file") from e
