"""How sure a score is: 95 % intervals by the bootstrap over prompts, paired where two are compared.

values: [categories, prompts] float64, the mean over the pictures of each prompt, because pictures
of one prompt are alike. A resample draws prompts with replacement within each category; the overall
score is the mean of the categories. Percentile intervals:
https://doi.org/10.1214/aos/1176344552 (Efron, 1979).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

RESAMPLES = 4000
TAILS = (2.5, 97.5)


@dataclass(frozen=True, slots=True)
class Figure:
    """A number and its 95 % interval. None: it does not exist, as a share of nothing."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Resampled:
    """A statistic of the prompts as they are (value), and of each resample: [resamples]."""

    value: float
    resamples: Values

    def figure(self) -> Figure:
        """The value with its interval."""
        low, high = np.percentile(self.resamples, TAILS)
        return Figure(round(self.value, 6), round(float(low), 6), round(float(high), 6))


def resample(values: Values, seed: int) -> list[Resampled]:
    """The mean of all categories, then of each. The same seed and shape draw the same prompts."""
    n_categories, n_prompts = values.shape
    rng = np.random.default_rng([seed, n_categories, n_prompts])
    means = np.stack([
        row[rng.integers(n_prompts, size=(RESAMPLES, n_prompts))].mean(1) for row in values
    ])  # fmt: skip
    each = [Resampled(float(row.mean()), m) for row, m in zip(values, means, strict=True)]
    return [Resampled(float(values.mean()), means.mean(0)), *each]


def ratio(part: Resampled, whole: Resampled) -> Figure:
    """part / whole, of resamples with the same prompts."""
    return _quotient(part.value, whole.value, part.resamples, whole.resamples)


def adjusted_ratio(part: Resampled, whole: Resampled, chance: Resampled) -> Figure:
    """(part - chance) / (whole - chance): 0 for pictures that do not depend on the caption."""
    return _quotient(
        part.value - chance.value,
        whole.value - chance.value,
        part.resamples - chance.resamples,
        whole.resamples - chance.resamples,
    )


def _quotient(
    numerator: float, denominator: float, numerators: Values, denominators: Values
) -> Figure:
    """No value where the divisor is not above zero, and no interval where it may not be."""
    if denominator <= 0:
        return Figure(None, None, None)
    if (denominators <= 0).any():
        return Figure(round(numerator / denominator, 6), None, None)
    return Resampled(numerator / denominator, numerators / denominators).figure()
