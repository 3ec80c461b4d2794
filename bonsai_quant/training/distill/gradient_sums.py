"""Gradients that leave the device, or bfloat16, as they come out, and are applied one by one.

An update of many states goes through the model in pieces, so its gradients have to lie somewhere
until the last piece. Here that is float32 sums on `place`; on the device there is one gradient at
a time. All of them are known before the first is applied, so they are shortened by their common
norm, as without this.
"""

from __future__ import annotations

import torch
from torch import nn


class GradientSums:
    """Takes every gradient of a model as soon as it is there. place: where the sums lie."""

    def __init__(self, model: nn.Module, place: torch.device) -> None:
        self.place = place
        self.sums: dict[torch.Tensor, torch.Tensor] = {}
        for p in model.parameters():
            p.register_post_accumulate_grad_hook(self._take)

    def _take(self, parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        gradient = parameter.grad.to(self.place, torch.float32)
        parameter.grad = None
        if parameter in self.sums:
            self.sums[parameter] += gradient
        else:
            self.sums[parameter] = gradient

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def apply(self, optimizer: torch.optim.Optimizer, longest: float, rng: torch.Generator) -> None:
        """One step of the optimizer, a weight at a time, and the sums are gone.

        longest: gradients with a longer norm, all in one, are shortened to it.  rng: of the
        rounding, on the weights' device.
        """
        norm = torch.nn.utils.get_total_norm(self.sums.values())
        share = (longest / (norm + 1e-6)).clamp(max=1.0)  # as clip_grad_norm_ has it
        for p in list(self.sums):
            _step(optimizer, p, self.sums.pop(p).mul_(share), rng)


def _step(
    optimizer: torch.optim.Optimizer, p: torch.Tensor, gradient: torch.Tensor,
    rng: torch.Generator,
) -> None:  # fmt: skip
    """The others have no gradient, and so the optimizer passes them over."""
    stored = p.data
    p.data = stored.float()
    p.grad = gradient.to(p.device)
    optimizer.step()
    p.grad = None
    if stored.dtype == torch.bfloat16:
        p.data = stored.copy_(rounded_by_chance(p.data, rng))


def rounded_by_chance(x: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """x float32 -> bfloat16: one of its two neighbours, so that the mean is x.

    Steps far smaller than the distance of two bfloat16 would be lost by rounding to the nearest
    (stochastic rounding: https://arxiv.org/abs/2010.06192). The lower 16 bits say how far x is from
    the neighbour that is nearer to 0; a random number of 16 bits added to them carries into the
    upper 16 that often.
    """
    bits = torch.randint(0, 1 << 16, x.shape, generator=rng, device=x.device, dtype=torch.int32)
    bits.add_(x.contiguous().view(torch.int32)).bitwise_and_(-(1 << 16))
    return bits.view(torch.float32).bfloat16()
