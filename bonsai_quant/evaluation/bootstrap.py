"""How sure a score is: 95 % intervals by the bootstrap over prompts, paired where two are compared.

values: [categories, prompts] float64, the mean over the pictures of each prompt, because pictures
of one prompt are alike. A resample draws prompts with replacement within each category; the overall
score is the mean of the categories. Percentile intervals:
https://doi.org/10.1214/aos/1176344552 (Efron, 1979).

Few prompts vary too little when they are drawn again, and prompts that all pass not at all: then a
share gets Wilson's interval, https://doi.org/10.1080/01621459.1927.10502953 (1927), a ratio none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

RESAMPLES = 4000
TAILS = (2.5, 97.5)
Z = 1.959964
"""The normal distribution's upper 2.5 % begin there."""
FEW = 30
"""Fewer prompts than these are not resampled."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A number and its 95 % interval. None: it does not exist, as a share of nothing."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Resampled:
    """A statistic of the prompts as they are (value), and of each resample: [resamples].

    n: how many prompts.
    """

    value: float
    resamples: Values
    n: int

    def figure(self) -> Figure:
        """The value with its bootstrap interval; without one when there are few prompts."""
        if self.n < FEW:
            return Figure(round(self.value, 6), None, None)
        low, high = np.percentile(self.resamples, TAILS)
        return Figure(round(self.value, 6), round(float(low), 6), round(float(high), 6))

    def share(self) -> Figure:
        """The value, a share of the prompts, with an interval in any case."""
        if self.interval == "bootstrap":
            return self.figure()
        low, high = wilson(self.value, self.n)
        return Figure(round(self.value, 6), round(low, 6), round(high, 6))

    @property
    def interval(self) -> str:
        """How the interval of a share is found: `bootstrap`, or `wilson`."""
        return "bootstrap" if self.n >= FEW and 0 < self.value < 1 else "wilson"


def wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of n prompts, whose pictures count as one each."""
    middle = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def resample(values: Values, seed: int) -> list[Resampled]:
    """The mean of all categories, then of each. The same seed and shape draw the same prompts."""
    n_categories, n_prompts = values.shape
    rng = np.random.default_rng([seed, n_categories, n_prompts])
    means = np.stack([
        row[rng.integers(n_prompts, size=(RESAMPLES, n_prompts))].mean(1) for row in values
    ])  # fmt: skip
    each = [
        Resampled(float(row.mean()), m, n_prompts) for row, m in zip(values, means, strict=True)
    ]
    return [Resampled(float(values.mean()), means.mean(0), values.size), *each]


def ratio(part: Resampled, whole: Resampled) -> Figure:
    """part / whole, of resamples with the same prompts."""
    return _quotient(part.value, whole.value, part.resamples, whole.resamples, part.n)


def adjusted_ratio(part: Resampled, whole: Resampled, chance: Resampled) -> Figure:
    """(part - chance) / (whole - chance): 0 for pictures that do not depend on the caption."""
    return _quotient(
        part.value - chance.value,
        whole.value - chance.value,
        part.resamples - chance.resamples,
        whole.resamples - chance.resamples,
        part.n,
    )


def _quotient(
    numerator: float, denominator: float, numerators: Values, denominators: Values, n: int
) -> Figure:
    """No value where the divisor is not above zero, and no interval where it may not be."""
    if denominator <= 0:
        return Figure(None, None, None)
    if (denominators <= 0).any():
        return Figure(round(numerator / denominator, 6), None, None)
    return Resampled(numerator / denominator, numerators / denominators, n).figure()
