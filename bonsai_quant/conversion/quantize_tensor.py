"""Solve a tensor block by block and put it together, with the measurements of layers.csv."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

import numpy as np
import xxhash

from bonsai_quant.core.schema import GROUP, LayerStats, PackedLayer, PlannedTensor, Span
from bonsai_quant.quantization.bf16 import as_float32, from_stored
from bonsai_quant.quantization.grid import round_kept
from bonsai_quant.quantization.solvers import Solved, solve
from bonsai_quant.quantization.solvers.nearest import DOT, ENERGY, ERROR, NONZERO, RECONSTRUCTED
from bonsai_quant.sources.lora.merge import Factors, merged, read_factors

from .calibration import Guide
from .checks import Checks
from .value_checks import bad_value, check_plausible, check_solved


@dataclass(frozen=True, slots=True)
class QuantizedTensor:
    """A tensor that is done.

    layer: when packed.  kept: float16 values of the tensor's shape, when kept.  Neither when it was
    skipped.  source_digest: of the bytes it was made from, for `--resume`.
    """

    planned: PlannedTensor
    stats: LayerStats | None
    layer: PackedLayer | None
    kept: np.ndarray | None
    source_digest: str


class TensorQuantizer:
    """Collects the blocks of one tensor, from any thread, in any order."""

    def __init__(
        self,
        planned: PlannedTensor,
        solver: str,
        bits: int,
        checks: Checks,
        skip: bool,
        guide: Guide | None = None,
    ) -> None:
        self.planned, self.solver, self.bits = planned, solver, bits
        self.checks, self.skip = checks, skip
        self.missing = planned.tensor.shape[0]
        self.lock = threading.Lock()
        self.digests: dict[int, bytes] = {}
        self.inexact = 0
        self.arrays: dict[str, np.ndarray] = {}
        self.guide = guide
        self.factors: Factors | None = None
        self.blank = bool(planned.deltas)
        """Only zeros came so far, where a LoRA will hide that."""

    def add(self, span: Span, data: np.ndarray) -> QuantizedTensor | None:
        """Solve the rows of a block; the tensor, when these were its last."""
        if not self.skip:
            self._place(span, data)
        with self.lock:
            self.digests[span.at] = xxhash.xxh3_128_digest(data.data.cast("B"))
            self.missing -= span.stop - span.start
            if self.missing:
                return None
        return self._finish()

    def _place(self, span: Span, data: np.ndarray) -> None:
        values = self._merge(from_stored(data, span.stored.spec.dtype), span.at)
        tensor = self.planned.tensor
        if tensor.action != "keep":
            solved = self._solve(values, span.at)
            check_solved(solved, values, span)
            parts = {
                "codes": solved.codes,
                "scales": solved.scales,
                "sums": solved.sums,
                "below": solved.below,
            }
        else:
            parts = {"kept": self._round(values, span)}
        rows = slice(span.at, span.at + span.stop - span.start)
        for name, part in parts.items():
            self._array(name, part)[rows] = part

    def _merge(self, values: np.ndarray, at: int) -> np.ndarray:
        """Add what LoRAs add to the rows from `at`; their factors are read by whoever is first."""
        if not self.planned.deltas:
            return values
        with self.lock:
            self.blank = self.blank and not values.any()
            if self.factors is None:
                self.factors = read_factors(self.planned.deltas, self.planned.tensor.shape)
            factors = self.factors
        return merged(np.ascontiguousarray(values), factors, at)

    def _solve(self, values: np.ndarray, at: int) -> Solved:
        """By the calibration where there is one, else by the weights alone."""
        if self.guide is not None:
            return self.guide.solve(values, at)
        action = self.planned.tensor.action
        assert action != "keep"
        return solve(values, self.solver, action, self.bits)

    def _array(self, name: str, part: np.ndarray) -> np.ndarray:
        with self.lock:
            if name not in self.arrays:
                shape = (self.planned.tensor.shape[0], *part.shape[1:])
                self.arrays[name] = np.empty(shape, part.dtype)
            return self.arrays[name]

    def _round(self, values: np.ndarray, span: Span) -> np.ndarray:
        exact = as_float32(np.ascontiguousarray(values))
        rounded = round_kept(exact)
        if not np.isfinite(rounded).all():
            at = int(np.flatnonzero(~np.isfinite(rounded.reshape(-1)))[0])
            raise bad_value(exact, at, span, "is too large for 16 bits (65280 at most)")
        inexact = int(np.count_nonzero(rounded != exact))
        with self.lock:
            self.inexact += inexact
        return rounded.astype(np.float16)

    def _finish(self) -> QuantizedTensor:
        ordered = b"".join(self.digests[at] for at in sorted(self.digests))
        digest = xxhash.xxh3_128_hexdigest(ordered)
        # What is done must not stay in memory.
        arrays, self.arrays, self.factors = self.arrays, {}, None
        tensor = self.planned.tensor
        if self.skip:
            return QuantizedTensor(self.planned, None, None, None, digest)
        if self.guide is not None:
            self.guide.finish()
        if not tensor.packed:
            stats = LayerStats(
                tensor.name,
                tensor.shape,
                "keep",
                self.planned.source_bytes,
                2 * tensor.size,
                inexact=self.inexact,
            )
            return QuantizedTensor(self.planned, stats, None, arrays["kept"], digest)
        stats = _packed_stats(self.planned, arrays, self.bits)
        check_plausible(
            stats, arrays["sums"], self.planned, self.checks,
            blank=self.blank, guided=self.guide is not None,
        )  # fmt: skip
        out, n = tensor.shape
        layer = PackedLayer(tensor.linear, (out, n), self.bits, arrays["codes"], arrays["scales"])
        return QuantizedTensor(self.planned, stats, layer, None, digest)


def _packed_stats(planned: PlannedTensor, arrays: dict[str, np.ndarray], bits: int) -> LayerStats:
    # Python's own sum: numpy's pairwise order may differ between builds.
    total = [math.fsum(arrays["sums"][:, c].tolist()) for c in range(5)]
    energy, error = total[ENERGY], total[ERROR]
    relative = error / energy if energy else 0.0
    norms = math.sqrt(energy * total[RECONSTRUCTED])
    tensor = planned.tensor
    out, n = tensor.shape
    return LayerStats(
        name=tensor.name,
        shape=tensor.shape,
        action=tensor.action,
        source_bytes=planned.source_bytes,
        stored_bytes=out * (-(-n // 5) if bits == 2 else n // 8) + 2 * out * n // GROUP,
        energy=energy,
        relative_error=math.sqrt(relative),
        sqnr_db=-10 * math.log10(relative) if relative else math.inf,
        cosine=total[DOT] / norms if norms else 1.0,
        zero_share=1 - total[NONZERO] / tensor.size,
        scale_min=float(arrays["scales"].min()),
        scale_max=float(arrays["scales"].max()),
        groups_below_grid=int(arrays["below"].sum()),
    )
