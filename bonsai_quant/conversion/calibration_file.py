"""A calibration on disk: second moments of the inputs of every packed layer, and how they came.

calibration.json tells; moments.safetensors holds one F32 tensor [in, in] for each input that one or
more layers read: H = E[x x'], not centred, over tokens, prompts and the sampler's noise levels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pydantic

from bonsai_quant.core.errors import BadInput, first_problem
from bonsai_quant.core.schema import PackTensor, StoredTensor
from bonsai_quant.packs.provenance_record import ComputeRecord, PromptsRecord
from bonsai_quant.quantization.hessian import Hessian
from bonsai_quant.storage import fs
from bonsai_quant.storage.containers.safetensors import read_header
from bonsai_quant.storage.strict_json import read_json
from bonsai_quant.storage.tensors import read

RECORD, MOMENTS = "calibration.json", "moments.safetensors"


class CalibrationRecord(pydantic.BaseModel):
    """calibration.json. inputs: layer -> tensor in the file.  source: sha256 of its files, by name.

    mode, solver: what the layers before each block were already rounded with; None for none.
    states: how many were looked at on the way from noise to picture, formerly `samples`.
    n_prompts, at_once: as asked for.  compute: with what; None in records of earlier versions.
    sha256, size: of the moments.  files: all that belong to it.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)
    schema_version: Literal[1]
    tool: dict[str, str]
    base: str
    mode: str | None
    solver: str | None
    inputs: dict[str, str]
    source: dict[str, str]
    prompts: PromptsRecord
    states: int = pydantic.Field(validation_alias=pydantic.AliasChoices("states", "samples"))
    seed: int
    n_prompts: int | None = None
    at_once: int | None = None
    compute: ComputeRecord | None = None
    sha256: str
    size: int
    files: list[str]


@dataclass(frozen=True, slots=True)
class Calibration:
    """An opened calibration. sha256: of calibration.json, which holds that of the moments."""

    folder: Path
    record: CalibrationRecord
    tensors: Mapping[str, StoredTensor]
    sha256: str

    def check(self, layers: Iterable[PackTensor]) -> None:
        """Refuse unless there are moments of the right size for every layer."""
        for t in layers:
            stored = self.tensors.get(self.record.inputs.get(t.linear, ""))
            n = t.shape[1]
            if stored is None or stored.spec.shape != (n, n) or stored.spec.dtype != "F32":
                actual = "nothing" if stored is None else f"{stored.spec.dtype} {stored.spec.shape}"
                raise BadInput(
                    f"has {actual} for {t.linear}; F32 ({n}, {n}) is needed",
                    where=str(self.folder),
                    hint="calibrate this source",
                )

    def check_source(self, digests: Mapping[str, str]) -> None:
        """Refuse moments of another model. digests: sha256 of the files of a source."""
        if dict(digests) != self.record.source:
            raise BadInput(
                "was made with another source: its files have other hashes",
                where=str(self.folder),
                hint="calibrate this source",
            )

    def hessian(self, linear: str) -> Hessian:
        """What the inputs of a layer look like."""
        tensor = self.tensors[self.record.inputs[linear]]
        h = read(tensor).astype(np.float64)
        if not np.isfinite(h).all() or (np.diag(h) < 0).any():
            raise BadInput(
                "holds what no second moments can be",
                where=(self.folder / MOMENTS, tensor.spec.name),
                hint="calibrate again",
            )
        return Hessian(h)


def open_calibration(folder: str | Path) -> Calibration:
    """Read and check a calibration's folder, every byte of it."""
    path = Path(folder)
    try:
        record = CalibrationRecord.model_validate(read_json(path / RECORD))
    except pydantic.ValidationError as e:
        raise BadInput(first_problem(e), where=str(path / RECORD), hint="calibrate again") from e
    if fs.sha256_file(path / MOMENTS) != (record.size, record.sha256):
        raise BadInput(
            f"is not what {RECORD} says", where=str(path / MOMENTS), hint="calibrate again"
        )
    tensors = {t.spec.name: t for t in read_header(path / MOMENTS).tensors}
    return Calibration(path, record, tensors, fs.sha256_file(path / RECORD)[1])
