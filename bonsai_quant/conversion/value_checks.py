"""Checks of what a conversion reads and solves: finite, in range, and like a trained layer."""

from __future__ import annotations

import math

import numpy as np

from bonsai_quant.core.errors import BadInput
from bonsai_quant.core.schema import GROUP, LayerStats, PlannedTensor, Span
from bonsai_quant.quantization.bf16 import as_float32
from bonsai_quant.quantization.solvers import Solved
from bonsai_quant.quantization.solvers.nearest import ENERGY

from .checks import Checks

PLAUSIBLE_RMS = (1e-6, 64.0)
"""Outside of it a matrix is no working model's weight, but bytes read as the wrong dtype."""


def check_solved(solved: Solved, values: np.ndarray, span: Span) -> None:
    """Refuse a block whose scales are not finite, and name the weight that is the cause."""
    if np.isfinite(solved.scales).all():
        return
    exact = as_float32(np.ascontiguousarray(values)).reshape(-1)
    wrong = np.flatnonzero(~np.isfinite(exact))
    if wrong.size:
        raise bad_value(exact, int(wrong[0]), span, "is not finite")
    row, group = (int(i) for i in np.argwhere(~np.isfinite(solved.scales))[0])
    at = row * values.shape[1] + group * GROUP
    raise bad_value(exact, at, span, "belongs to a group whose scale is too large for 16 bits")


def bad_value(values: np.ndarray, at: int, span: Span, problem: str) -> BadInput:
    """The error for the weight at a flat index of a block. problem: with it."""
    value = values.reshape(-1)[at]
    if not math.isfinite(value):
        problem = "is not finite"
    index = span.start * (math.prod(span.stored.spec.shape[1:])) + at
    added = bool(span.planned.deltas)
    return BadInput(
        f"{value:g} {problem}" + " with what --lora adds" * added,
        hint="repair or refetch the checkpoint" + ", or lower the LoRA's scale" * added,
        where=(span.stored.path, f"tensor {span.stored.spec.name}", f"element {index}"),
    )


def check_plausible(
    stats: LayerStats,
    sums: np.ndarray,
    planned: PlannedTensor,
    checks: Checks,
    *,
    blank: bool,
    guided: bool,
) -> None:
    """Refuse a tensor of zeros, or one whose magnitudes no trained layer has.

    blank: the source had only zeros, whatever was added to them.
    guided: by a calibration. The model has painted for it, so that its dtype is right, and error
    feedback may move weights as far as they are large.
    """
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
    if not plausible or (not guided and _looks_mislabelled(stats, stored.spec.dtype)):
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
