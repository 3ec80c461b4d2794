"""Second moments of a layer's inputs, for the solvers that keep its outputs, not its weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

DAMPING = 0.01
"""Share of the mean of the diagonal added to it, so that rare inputs leave H invertible."""


@dataclass(frozen=True)
class Hessian:
    """moments: H = E[x x'] of the inputs x, not centred, [in, in] float64."""

    moments: np.ndarray

    @cached_property
    def importance(self) -> np.ndarray:
        """E[x_j^2], damped as H is: [in] float64, all above zero."""
        diagonal = np.diag(self.moments).copy()
        return diagonal + DAMPING * (float(diagonal.mean()) or 1.0)

    @cached_property
    def damped(self) -> np.ndarray:
        """H + damping, which is the metric that every stage of `gptq` lowers the error in."""
        h = self.moments.copy()
        h[np.diag_indices_from(h)] = self.importance
        return h

    @cached_property
    def factor(self) -> np.ndarray:
        """Upper U with U'U = H^-1: column j's row says how its error spreads to later columns."""
        inverse = np.linalg.inv(self.damped)
        return np.ascontiguousarray(np.linalg.cholesky((inverse + inverse.T) / 2).T)
