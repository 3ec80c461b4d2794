"""A calibration on disk, of either kind, and how it guides the rounding of a layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pydantic

from bonsai_quant.core.errors import BadInput, UsageError, first_problem
from bonsai_quant.core.recipe import Recipe
from bonsai_quant.core.schema import PackTensor
from bonsai_quant.quantization.solvers import Solved
from bonsai_quant.storage import fs
from bonsai_quant.storage.containers.safetensors import read_header
from bonsai_quant.storage.strict_json import read_json

from .codes import Codes
from .moments import Moments
from .record import CODES, MOMENTS, RECORD, CalibrationRecord, CodesRecord, MomentsRecord


class Guide(Protocol):
    """Rounds one layer by what a calibration knows of it. Called from several threads."""

    def solve(self, weight: np.ndarray, at: int) -> Solved:
        """weight: [rows, in], rows from `at` of the source's layer, as the solvers take them."""

    def finish(self) -> None:
        """All rows were solved; raises BadInput when the result is not what was recorded."""


class Calibration(Protocol):
    """An opened calibration. sha256: of calibration.json, which holds that of the tensors."""

    @property
    def folder(self) -> Path:
        """Where it is."""

    @property
    def record(self) -> CalibrationRecord:
        """What calibration.json says."""

    @property
    def sha256(self) -> str:
        """Of calibration.json."""

    def check(self, layers: Iterable[PackTensor]) -> None:
        """Refuse unless every layer is in it, in its size."""

    def check_recipe(self, recipe: Recipe) -> None:
        """Refuse what cannot guide this recipe."""

    def check_source(self, digests: Mapping[str, str]) -> None:
        """Refuse a calibration of another model. digests: sha256 of the files of a source."""

    def work_bytes(self, layers: Sequence[PackTensor]) -> int:
        """Memory that the guide of any of these layers takes."""

    def guide(self, layer: PackTensor, solver: str, bits: int) -> Guide:
        """For one layer. bits: of a stored code."""


def open_calibration(folder: str | Path) -> Calibration:
    """Read and check a calibration's folder, every byte of it."""
    path = Path(folder)
    record = _record(path)
    kind: Any
    kind, name = (Codes, CODES) if isinstance(record, CodesRecord) else (Moments, MOMENTS)
    if fs.sha256_file(path / name) != (record.size, record.sha256):
        raise BadInput(f"is not what {RECORD} says", where=str(path / name), hint="calibrate again")
    tensors = {t.spec.name: t for t in read_header(path / name).tensors}
    calibration: Calibration = kind(path, record, tensors, fs.sha256_file(path / RECORD)[1])
    return calibration


def _record(path: Path) -> CalibrationRecord:
    data = read_json(path / RECORD)
    if isinstance(data, dict) and data.get("schema_version") == 1 and data.get("solver"):
        raise UsageError(
            "was made by an earlier version, which solved every layer again in `convert`",
            where=str(path),
            hint="calibrate again",
        )
    codes = isinstance(data, dict) and data.get("schema_version") == 2
    try:
        return (CodesRecord if codes else MomentsRecord).model_validate(data)
    except pydantic.ValidationError as e:
        raise BadInput(first_problem(e), where=str(path / RECORD), hint="calibrate again") from e
