"""Muon (https://kellerjordan.github.io/posts/muon): steps of equal size in every direction.

torch's own computes in bf16, which a CPU without bf16 arithmetic does thirty times slower.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch


class Muon(torch.optim.Optimizer):
    """For matrices: the momentum of the gradient, made orthogonal, times 0.2 sqrt(longer side).

    That factor gives a step the size of one of AdamW's (https://arxiv.org/abs/2502.16982).
    """

    def __init__(
        self,
        params: Iterable[torch.Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One step for every parameter that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["mean"] = torch.zeros_like(p)
                mean = state["mean"].lerp_(p.grad, 1 - group["momentum"])
                ahead = p.grad.lerp(mean, group["momentum"])
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(orthogonal(ahead), alpha=-group["lr"] * 0.2 * max(p.shape) ** 0.5)


def orthogonal(matrix: torch.Tensor, *, rounds: int = 5) -> torch.Tensor:
    """[m, n] -> nearly U V' of its singular value decomposition, by Newton-Schulz iteration.

    x <- (a + b xx' + c (xx')^2) x, where only the small side's square matrices are multiplied.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    gram, product = x @ x.T, None
    one = torch.eye(len(gram), device=x.device)
    for _ in range(rounds):
        factor = a * one + b * gram + c * (gram @ gram)
        product = factor if product is None else factor @ product
        gram = factor @ gram @ factor
    x = product @ x
    return x.T if tall else x
