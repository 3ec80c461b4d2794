"""What each step learns from: states on the path from noise to picture, drawn by step alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from bonsai_quant.core.errors import UsageError
from bonsai_quant.training.distributed import ProcessGroup
from bonsai_quant.training.settings import DistillationSettings
from bonsai_quant.training.trajectories.denoiser import walk


@dataclass(frozen=True, slots=True)
class Batch:
    """States on the path from noise to picture, and the velocities of the teacher there.

    z, target: [n, tokens, channels].  sigma: [n].  captions: [n, words, width].  weight: [n], of
    each state in the loss: of its step, over the teacher's mean square there.
    """

    z: torch.Tensor
    sigma: torch.Tensor
    captions: torch.Tensor
    target: torch.Tensor
    weight: torch.Tensor


class Batches:
    """Draws batches: the same whatever the number of processes, each of which takes its share."""

    def __init__(
        self, captions: torch.Tensor, shape: tuple[int, int], sigmas: list[float],
        settings: DistillationSettings, seed: int, processes: ProcessGroup,
    ) -> None:  # fmt: skip
        self.captions, self.shape, self.sigmas = captions, shape, sigmas
        self.settings, self.seed, self.processes = settings, seed, processes
        self.steps = len(sigmas) - 1
        if len(settings.weights) not in (0, self.steps):
            raise UsageError(
                f"distillation: weights has {len(settings.weights)} numbers, and the sampler takes "
                f"{self.steps} steps",
                hint="mend the recipe",
            )
        weights = torch.tensor(settings.weights or (1.0,) * self.steps)
        self.weights = (weights / weights.mean()).to(processes.device)

    @property
    def prompts(self) -> int:
        """Prompts in one step, shared evenly among processes; the walk of one is several states."""
        each = max(1, self.settings.batch // (self.steps * self.processes.size))
        return each * self.processes.size

    def draw(self, step: int, teacher: nn.Module, student: nn.Module) -> Batch:
        """The batch of a step."""
        rng = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        which = torch.randint(len(self.captions), (self.prompts,), generator=rng)
        noise = torch.randn(self.prompts, *self.shape, generator=rng)
        own = bool(torch.rand((), generator=rng) < self.settings.own_share(step))
        captions = self.captions[self.processes.share(which)].to(self.processes.device)
        noise = self.processes.share(noise).to(self.processes.device)
        batch: Batch = self.along(student if own else teacher, teacher, noise, captions)
        return batch

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def along(
        self, walker: nn.Module, teacher: nn.Module, noise: torch.Tensor, captions: torch.Tensor
    ) -> Batch:
        """The states that `walker` passes from this noise, one after another for each prompt."""
        states = walk(walker, noise, captions, self.sigmas)[:-1]
        n = len(noise)
        z = torch.cat(states)
        sigma = torch.tensor(self.sigmas[:-1], device=z.device).repeat_interleave(n)
        repeated = captions.repeat(self.steps, *(1,) * (captions.ndim - 1))
        target = torch.cat([teacher(*part) for part in self.pieces(z, sigma, repeated)])
        energy = self.processes.mean(target.square().mean((1, 2)).view(self.steps, n).mean(1))
        weight = (self.weights / energy).repeat_interleave(n)
        return Batch(z, sigma, repeated, target, weight)

    def pieces(self, *parts: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
        """As many states at once as the device takes."""
        return list(zip(*(p.split(self.settings.at_once) for p in parts), strict=True))
