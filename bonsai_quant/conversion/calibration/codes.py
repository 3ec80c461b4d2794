"""Codes and scales of every packed layer, and random combinations of its inputs to prove them by.

codes.safetensors holds of each layer
- `NAME.codes`, U8 [out, in * bits / 8], and `NAME.scales`, F16 [out, in / 128], as packs have them;
- `NAME.probes`, F32 [parts, 2, k, in]: R y and R x of the calibration's weighted tokens, R random
  signs, y the inputs in full precision and x those behind the rounded layers before; parts are
  rows of the layer whose tokens were weighed apart.
|R y W' - R x Q'|^2 / |R y W'|^2, W the source's weights and Q the rounded ones, is an estimate of
the relative error of the layer's outputs. It is recorded, and computed anew whenever the codes are
used: codes, scales, inputs and source that do not belong together do not give it again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bonsai_quant.core.errors import BadInput, UsageError
from bonsai_quant.core.recipe import Recipe
from bonsai_quant.core.schema import GROUP, PackTensor, StoredTensor
from bonsai_quant.quantization.bf16 import as_float32
from bonsai_quant.quantization.solvers import Solved
from bonsai_quant.storage.tensors import read, read_rows

from .record import CODES, CodesRecord
from .source import check_same_source

TOLERANCE = 1e-3
"""Relative: how far an error may be from the recorded one; sums are taken in another order."""


@dataclass(frozen=True, slots=True)
class Codes:
    """See `Calibration`."""

    folder: Path
    record: CodesRecord
    tensors: Mapping[str, StoredTensor]
    sha256: str

    def check(self, layers: Iterable[PackTensor]) -> None:
        """See `Calibration.check`."""
        for t in layers:
            out, n = t.shape
            codes, scales, probes = (
                self.tensors.get(f"{t.linear}.{part}") for part in ("codes", "scales", "probes")
            )
            if (
                codes is None or scales is None or probes is None
                or t.linear not in self.record.layers
                or (codes.spec.dtype, scales.spec.dtype, probes.spec.dtype) != ("U8", "F16", "F32")
                or codes.spec.shape not in ((out, n // 4), (out, n // 8))
                or scales.spec.shape != (out, n // GROUP)
                or len(probes.spec.shape) != 4 or probes.spec.shape[1::2] != (2, n)
                or len(self.record.layers[t.linear].starts) != probes.spec.shape[0]
            ):  # fmt: skip
                raise BadInput(
                    f"has no codes for {t.linear} of {out} x {n}",
                    where=str(self.folder),
                    hint="calibrate this source with this recipe",
                )

    def check_recipe(self, recipe: Recipe) -> None:
        """See `Calibration.check_recipe`."""
        for what, mine, theirs in (
            ("mode", self.record.mode, recipe.mode), ("solver", self.record.solver, recipe.solver),
        ):  # fmt: skip
            if mine != theirs:
                raise UsageError(
                    f"was made with the {what} {mine}, and this is {theirs}",
                    where=str(self.folder),
                    hint=f"calibrate with --mode {recipe.mode} --solver {recipe.solver}",
                )

    def check_source(self, digests: Mapping[str, str]) -> None:
        """See `Calibration.check_source`."""
        check_same_source(self.folder, self.record.source, digests)

    def work_bytes(self, layers: Sequence[PackTensor]) -> int:
        """See `Calibration.work_bytes`: the probes, and a block of weights before and after."""
        widest = max((t.shape[1] for t in layers), default=0)
        return 8 * 64 * 4 * widest + (64 << 20)

    def guide(self, layer: PackTensor, solver: str, bits: int) -> CodesGuide:
        """See `Calibration.guide`."""
        return CodesGuide(self, layer, bits)

    def rows(self, linear: str, part: str, start: int, stop: int) -> np.ndarray:
        """Rows of the codes or the scales of a layer."""
        return read_rows(self.tensors[f"{linear}.{part}"], start, stop)


class CodesGuide:
    """Hands out what was solved before, and measures it again."""

    def __init__(self, codes: Codes, layer: PackTensor, bits: int) -> None:
        self.codes, self.layer, self.bits = codes, layer, bits
        self.lock = threading.Lock()
        self.outputs: OutputError | None = None

    def solve(self, weight: np.ndarray, at: int) -> Solved:
        """See `Guide.solve`."""
        from bonsai_quant.quantization.dequantize import decoded  # which imports numba
        from bonsai_quant.quantization.solvers.measure import measured

        linear, stop = self.layer.linear, at + len(weight)
        codes = self.codes.rows(linear, "codes", at, stop)
        scales = self.codes.rows(linear, "scales", at, stop)
        if codes.shape[1] * 8 != self.bits * weight.shape[1]:
            raise BadInput(
                f"has codes of another width for {linear}",
                where=str(self.codes.folder / CODES),
                hint="calibrate this source with this recipe",
            )
        solved = measured(weight, codes, scales, self.bits)
        if np.isfinite(solved.scales).all() and np.isfinite(solved.sums).all():
            rounded = decoded(codes, scales, self.bits)
            self._error().add(as_float32(np.ascontiguousarray(weight)), rounded, at)
        return solved

    def _error(self) -> OutputError:
        with self.lock:
            if self.outputs is None:
                probes = read(self.codes.tensors[f"{self.layer.linear}.probes"])
                starts = self.codes.record.layers[self.layer.linear].starts
                self.outputs = OutputError(probes, starts)
            return self.outputs

    def finish(self) -> None:
        """See `Guide.finish`."""
        known = self.codes.record.layers[self.layer.linear].error
        found = self.outputs.relative if self.outputs else known
        self.outputs = None
        if abs(found - known) > TOLERANCE * known + 1e-9:
            raise BadInput(
                f"the codes of {self.layer.linear} give an error of outputs of {found:.6g}, and "
                f"{known:.6g} was recorded",
                where=str(self.codes.folder),
                hint="calibrate again",
            )


class OutputError:
    """Adds up the error of a layer's outputs on its probes, some rows at a time, in any order."""

    def __init__(self, probes: np.ndarray, starts: tuple[int, ...]) -> None:
        """probes: [parts, 2, k, in] float32.  starts: the first row of each part."""
        self.probes, self.starts = probes, starts
        self.lock = threading.Lock()
        self.error = self.energy = 0.0

    def add(self, weight: np.ndarray, rounded: np.ndarray, at: int) -> None:
        """Both [rows, in] float32, rows from `at` of the layer."""
        stops = (*self.starts[1:], at + len(weight))
        for part, (start, stop) in enumerate(zip(self.starts, stops, strict=True)):
            rows = slice(max(start - at, 0), max(min(stop - at, len(weight)), 0))
            if rows.start >= rows.stop:
                continue
            y = (self.probes[part, 0] @ weight[rows].T).astype(np.float64)
            x = (self.probes[part, 1] @ rounded[rows].T).astype(np.float64)
            error, energy = float(np.square(y - x).sum()), float(np.square(y).sum())
            with self.lock:
                self.error, self.energy = self.error + error, self.energy + energy

    @property
    def relative(self) -> float:
        """Of all rows."""
        return self.error / self.energy if self.energy else 0.0
