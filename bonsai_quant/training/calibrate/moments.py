"""Second moments of what linears read, added up while blocks run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from bonsai_quant.quantization.hessian import Hessian
from bonsai_quant.training.distributed import ProcessGroup

SKIPPED = 1e-3
"""Tokens that together have less than this share of all weight are left out of the sums."""
PROBES = 32
"""Random combinations of the inputs that are kept, to measure a pack's outputs by."""

DAMPING = 0.03
"""Share of H's mean diagonal that is added to it. Error of velocities in binary, on the model's own
way, with 0.003, 0.01, 0.03, 0.1: 0.0563, 0.0514, 0.0489, 0.0503 after 256 prompts of mini-klein;
with the last three 0.0441, 0.0433, 0.0448 after 1,024."""


class AllCaught(Exception):
    """The inputs that were asked for are known: the rest of the block need not run."""


class Inputs:
    """What some linears of a block read, each input once. x: linear -> [n, tokens, in]."""

    def __init__(self, linears: Mapping[str, nn.Module]) -> None:
        self.linears = linears
        self.x: dict[str, torch.Tensor] = {}

    @contextmanager
    def catching(self, *, stop: bool) -> Iterator[None]:
        """Keep the inputs of a run. stop: leave the block, without a word, once all are there."""
        self.x.clear()

        def keep(name: str, inputs: tuple[torch.Tensor, ...]) -> None:
            self.x[name] = inputs[0].detach().float()
            if stop and len(self.x) == len(self.linears):
                raise AllCaught

        hooks = [
            module.register_forward_pre_hook(lambda _, inputs, name=name: keep(name, inputs))
            for name, module in self.linears.items()
        ]
        try:
            yield
        except AllCaught:
            pass
        finally:
            for hook in hooks:
                hook.remove()


class Moments:
    """Sums over weighted tokens, of x the rounded model's input and y the full-precision one's.

    H = E[w x x'].  C = E[w y x'].  [in, in] float32, on the device.
    probes: R x and R y of the same weighted tokens, R random signs: [2, PROBES, in] float32, so
    that |R y W' - R x W''|^2 is about PROBES E[w |W y - W' x|^2].
    """

    def __init__(self, n: int, *, both: bool, device: torch.device, seed: int = 0) -> None:
        self.h = torch.zeros(n, n, device=device)
        self.c = torch.zeros(n, n, device=device) if both else self.h
        self.probes = torch.zeros(2, PROBES, n, device=device)
        self.weight, self.random = 0.0, torch.Generator().manual_seed(seed)

    def add(
        self, y: torch.Tensor, x: torch.Tensor, weights: torch.Tensor, least: float = -1.0
    ) -> None:
        """y, x: [n, tokens, in].  weights: [n, tokens]; those below `least` are left out."""
        w = weights.flatten()
        self.weight += float(w.sum())
        used = (w > least).nonzero().squeeze(1).to(x.device)
        root = w.to(x.device)[used].sqrt()[:, None]
        x = x.flatten(0, 1)[used] * root
        y = y.flatten(0, 1)[used] * root
        self.h.addmm_(x.T, x)
        if self.c is not self.h:
            self.c.addmm_(y.T, x)
        signs = torch.randint(0, 2, (PROBES, len(x)), generator=self.random) * 2.0 - 1.0
        signs = signs.to(x.device)
        self.probes[0].addmm_(signs, y)
        self.probes[1].addmm_(signs, x)

    def finish(self, processes: ProcessGroup) -> None:
        """From the sums of all processes to means; H exactly symmetric."""
        for total in (self.h, self.probes, *([] if self.c is self.h else [self.c])):
            processes.sum(total)
        self.weight = sum(processes.gather(self.weight))
        if not self.weight:
            return
        both = self.c is not self.h
        self.h = (self.h + self.h.T) / (2 * self.weight)
        self.c = self.c / self.weight if both else self.h
        self.probes /= self.weight**0.5


def negligible(weights: torch.Tensor) -> float:
    """The weight up to which tokens can be left out: together they have SKIPPED of the sum."""
    ordered = weights.flatten().sort().values
    below = int((ordered.cumsum(0) < SKIPPED * ordered.sum()).sum())
    return float(ordered[below - 1]) if below else -1.0


def target(
    weight: torch.Tensor, h: torch.Tensor, c: torch.Tensor, hessian: Hessian
) -> torch.Tensor:
    """What to round in the place of W: it gives W y on x as well as any matrix can.

    min_V E[w |W y - V x|^2] + l |W - V|^2 has V = W (C + l I) (H + l I)^-1, written as
    W + W (C - H) (H + l I)^-1 (https://arxiv.org/abs/2504.09629).
    weight: [rows, in].  hessian: of h, and l.
    """
    return weight + hessian.divide(weight @ (c - h))
