"""Solve a tensor block by block and put it together, with the measurements of layers.csv."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

import numpy as np
import xxhash

from .calibration import Calibration
from .checks import Checks
from .errors import BadInput
from .guide import Guide
from .lora.merge import Factors, merged, read_factors
from .schema import GROUP, LayerStats, PackedLayer, PlannedTensor, StoredTensor
from .solvers import Solved, solve
from .solvers.grid import round_kept
from .solvers.nearest import DOT, ENERGY, ERROR, NONZERO, RECONSTRUCTED
from .solvers.weights import as_float32, from_stored

PLAUSIBLE_RMS = (1e-6, 64.0)
"""Outside of it a matrix is no working model's weight, but bytes read as the wrong dtype."""


@dataclass(frozen=True, slots=True)
class Span:
    """Rows [start, stop) of a stored tensor, which are rows from `at` of a planned one."""

    planned: PlannedTensor
    stored: StoredTensor
    start: int
    stop: int
    at: int


@dataclass(frozen=True, slots=True)
class Finished:
    """A tensor that is done.

    layer: when packed.  kept: float16 values of the tensor's shape, when kept.  Neither when it was
    skipped.  source_digest: of the bytes it was made from, for `--resume`.
    """

    planned: PlannedTensor
    stats: LayerStats | None
    layer: PackedLayer | None
    kept: np.ndarray | None
    source_digest: str


class Assembly:
    """Collects the blocks of one tensor, from any thread, in any order."""

    def __init__(
        self,
        planned: PlannedTensor,
        solver: str,
        bits: int,
        checks: Checks,
        skip: bool,
        calibration: Calibration | None = None,
    ) -> None:
        self.planned, self.solver, self.bits = planned, solver, bits
        self.checks, self.skip = checks, skip
        self.missing = planned.tensor.shape[0]
        self.lock = threading.Lock()
        self.digests: dict[int, bytes] = {}
        self.inexact = 0
        self.arrays: dict[str, np.ndarray] = {}
        self.calibration = calibration
        self.guide: Guide | None = None
        self.factors: Factors | None = None
        self.blank = bool(planned.deltas)
        """Only zeros came so far, where a LoRA will hide that."""

    def add(self, span: Span, data: np.ndarray) -> Finished | None:
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
            solved = solve(values, self.solver, tensor.action, self.bits, self._guide())
            _check_solved(solved, values, span)
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

    def _guide(self) -> Guide | None:
        """What the layer's inputs look like, read and made ready by whoever comes first."""
        if self.calibration is None:
            return None
        with self.lock:
            if self.guide is None:
                self.guide = self.calibration.guide(self.planned.tensor.linear)
                if self.solver == "gptq":
                    _ = self.guide.factor
            return self.guide

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
            raise _bad_value(exact, at, span, "is too large for 16 bits (65280 at most)")
        inexact = int(np.count_nonzero(rounded != exact))
        with self.lock:
            self.inexact += inexact
        return rounded.astype(np.float16)

    def _finish(self) -> Finished:
        ordered = b"".join(self.digests[at] for at in sorted(self.digests))
        digest = xxhash.xxh3_128_hexdigest(ordered)
        # What is done must not stay in memory.
        arrays, self.arrays, self.guide, self.factors = self.arrays, {}, None, None
        tensor = self.planned.tensor
        if self.skip:
            return Finished(self.planned, None, None, None, digest)
        if not tensor.packed:
            stats = LayerStats(
                tensor.name,
                tensor.shape,
                "keep",
                self.planned.source_bytes,
                2 * tensor.size,
                inexact=self.inexact,
            )
            return Finished(self.planned, stats, None, arrays["kept"], digest)
        stats = _packed_stats(self.planned, arrays, self.bits)
        _check_plausible(stats, arrays["sums"], self.planned, self.checks, self.blank)
        out, n = tensor.shape
        layer = PackedLayer(tensor.linear, (out, n), self.bits, arrays["codes"], arrays["scales"])
        return Finished(self.planned, stats, layer, None, digest)


def _check_solved(solved: Solved, values: np.ndarray, span: Span) -> None:
    if np.isfinite(solved.scales).all():
        return
    exact = as_float32(np.ascontiguousarray(values)).reshape(-1)
    wrong = np.flatnonzero(~np.isfinite(exact))
    if wrong.size:
        raise _bad_value(exact, int(wrong[0]), span, "is not finite")
    row, group = (int(i) for i in np.argwhere(~np.isfinite(solved.scales))[0])
    at = row * values.shape[1] + group * GROUP
    raise _bad_value(exact, at, span, "belongs to a group whose scale is too large for 16 bits")


def _bad_value(values: np.ndarray, at: int, span: Span, what: str) -> BadInput:
    value = values.reshape(-1)[at]
    if not math.isfinite(value):
        what = "is not finite"
    index = span.start * (math.prod(span.stored.spec.shape[1:])) + at
    added = bool(span.planned.deltas)
    return BadInput(
        f"{value:g} {what}" + " with what --lora adds" * added,
        hint="repair or refetch the checkpoint" + ", or lower the LoRA's scale" * added,
        where=(span.stored.path, f"tensor {span.stored.spec.name}", f"element {index}"),
    )


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


def _check_plausible(
    stats: LayerStats, sums: np.ndarray, planned: PlannedTensor, checks: Checks, blank: bool
) -> None:
    """blank: the source had only zeros, whatever was added to them."""
    stored = planned.pieces[0].stored
    where = (stored.path, f"tensor {stored.spec.name}")
    energy = math.fsum(sums[:, ENERGY].tolist())
    if energy == 0 or blank:
        if not checks.zeros:
            return
        raise BadInput(
            "is all zeros, as an interrupted download or write leaves it",
            where=where,
            hint="fetch the checkpoint again, or pass --allow-zero",
        )
    rms = math.sqrt(energy / planned.tensor.size)
    if not checks.magnitudes:
        return
    plausible = PLAUSIBLE_RMS[0] <= rms <= PLAUSIBLE_RMS[1]
    if not plausible or _looks_mislabelled(stats, stored.spec.dtype):
        raise BadInput(
            f"has magnitudes (root mean square {rms:.3g}) that no trained layer has; is "
            f"{stored.spec.dtype} its true dtype?",
            where=where,
            hint="fetch the checkpoint again, or pass --no-sanity",
        )


def _looks_mislabelled(stats: LayerStats, dtype: str) -> bool:
    """Whether these are fp16's bytes read as bf16, or the reverse.

    bf16 read as fp16 gives magnitudes that all lie around 1. fp16 read as bf16 moves exponents
    eight times as far apart, so that a few weights of each group dwarf the rest.
    """
    error, low, high = stats.relative_error or 0.0, stats.scale_min or 0.0, stats.scale_max or 0.0
    if dtype == "F16":
        return 0.05 < error < 0.25 and low > 0.5 and high < 2.5
    if dtype == "BF16" and error > 0:
        few = (stats.zero_share or 0) > 0.95 if stats.action == "ternary" else error > 0.98
        mostly_below = 2 * GROUP * stats.groups_below_grid > math.prod(stats.shape)
        return few and (mostly_below or high > 100 * low)
    return False
