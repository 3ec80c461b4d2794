"""Second moments of the inputs of every packed layer, in full precision.

moments.safetensors holds one F32 tensor [in, in] for each input that one or more layers read:
H = E[x x'], not centred, over tokens, prompts and the sampler's noise levels.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bonsai_quant.core.errors import BadInput, UsageError
from bonsai_quant.core.recipe import Recipe
from bonsai_quant.core.schema import Mode, PackTensor, StoredTensor
from bonsai_quant.quantization.hessian import Hessian
from bonsai_quant.quantization.solvers import SOLVERS, Solved, solve
from bonsai_quant.storage.tensors import read

from .record import MOMENTS, MomentsRecord
from .source import check_same_source

SERVES = ("weighted",)
"""Solvers that need no more of a layer's inputs than this."""


@dataclass(frozen=True, slots=True)
class Moments:
    """See `Calibration`."""

    folder: Path
    record: MomentsRecord
    tensors: Mapping[str, StoredTensor]
    sha256: str

    def check(self, layers: Iterable[PackTensor]) -> None:
        """See `Calibration.check`."""
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

    def check_recipe(self, recipe: Recipe) -> None:
        """See `Calibration.check_recipe`."""
        if recipe.solver not in SERVES:
            raise UsageError(
                f"holds moments in full precision, and {recipe.solver} solves every layer behind "
                "those before it",
                where=str(self.folder),
                hint=f"calibrate with --mode {recipe.mode} --solver {recipe.solver}",
            )

    def check_source(self, digests: Mapping[str, str]) -> None:
        """See `Calibration.check_source`."""
        check_same_source(self.folder, self.record.source, digests)

    def work_bytes(self, layers: Sequence[PackTensor]) -> int:
        """See `Calibration.work_bytes`: H as it is read and in float64, twice."""
        return max((20 * t.shape[1] ** 2 for t in layers), default=0)

    def guide(self, layer: PackTensor, solver: str, bits: int) -> MomentsGuide:
        """See `Calibration.guide`."""
        return MomentsGuide(self, layer, solver, bits)

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


class MomentsGuide:
    """Solves rows by the moments of their inputs, read by whoever comes first."""

    def __init__(self, moments: Moments, layer: PackTensor, solver: str, bits: int) -> None:
        self.moments, self.layer, self.solver, self.bits = moments, layer, solver, bits
        self.lock = threading.Lock()
        self.hessian: Hessian | None = None

    def solve(self, weight: np.ndarray, at: int) -> Solved:
        """See `Guide.solve`."""
        mode: Mode = self.layer.action  # type: ignore[assignment]
        return solve(weight, self.solver, mode, self.bits, self._hessian())

    def _hessian(self) -> Hessian:
        with self.lock:
            if self.hessian is None:
                self.hessian = self.moments.hessian(self.layer.linear)
                SOLVERS[self.solver].prepare(self.hessian)
            return self.hessian

    def finish(self) -> None:
        """See `Guide.finish`: nothing was recorded."""
        self.hessian = None
