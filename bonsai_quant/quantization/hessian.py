"""Second moments of a layer's inputs, for the solvers that keep its outputs, not its weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

DAMPING = 0.01
"""Share of the mean of the diagonal added to it, so that rare inputs leave H invertible."""


@dataclass(frozen=True)
class Hessian:
    """H = E[x x'] of the inputs x, not centred; tensors that follow from it are where it is.

    moments: [in, in], an array or a tensor on any device.
    damping: share of the mean of the diagonal that is added to the diagonal.
    """

    moments: Any
    damping: float = DAMPING

    @cached_property
    def added(self) -> float:
        """What damping adds to every number of the diagonal; above zero when H is zero."""
        return self.damping * (float(self._diagonal.mean()) or 1.0)

    @cached_property
    def importance(self) -> np.ndarray:
        """E[x_j^2], damped as H is: [in] float64, all above zero."""
        damped: np.ndarray = self._diagonal + self.added
        return damped

    @cached_property
    def tensor(self) -> torch.Tensor:
        """H without damping: [in, in] float32."""
        import torch

        if isinstance(self.moments, torch.Tensor):
            return self.moments.float()
        return torch.from_numpy(np.asarray(self.moments, np.float32))

    @cached_property
    def damped(self) -> torch.Tensor:
        """H + damping, the metric that `gptq` lowers the error in: [in, in] float32."""
        h = self.tensor.clone()
        h.diagonal().add_(self.added)
        return h

    @cached_property
    def factor(self) -> torch.Tensor:
        """Upper R with R R' = H + damping: |d R|^2 is what an error d costs. [in, in] float32.

        In float32, whose rounding is far below the usual damping; in float64 where that fails.
        """
        import torch

        flipped = self.tensor.flip(0, 1)
        flipped.diagonal().add_(self.added)
        lower, failed = torch.linalg.cholesky_ex(flipped)
        if failed:
            flipped = self.tensor.double().flip(0, 1)
            flipped.diagonal().add_(self.added)
            lower = torch.linalg.cholesky(flipped).float()
        del flipped
        return lower.flip(0, 1)

    def divide(self, x: torch.Tensor) -> torch.Tensor:
        """x: [rows, in] -> x (H + damping)^-1, by two triangular systems."""
        import torch

        half = torch.linalg.solve_triangular(self.factor.T, x, upper=False, left=False)
        return torch.linalg.solve_triangular(self.factor, half, upper=True, left=False)

    @property
    def _diagonal(self) -> np.ndarray:
        diagonal = self.moments.diagonal()
        if not isinstance(diagonal, np.ndarray):
            diagonal = diagonal.cpu().numpy()
        return np.asarray(diagonal, np.float64)
