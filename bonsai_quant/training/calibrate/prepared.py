"""What both kinds of calibration begin with: the model, its prompts, and noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bonsai_quant.core.errors import UsageError
from bonsai_quant.runners.runner import start
from bonsai_quant.runners.sampling import levels
from bonsai_quant.runners.torch.runner import TorchRunner
from bonsai_quant.training.distributed import ProcessGroup
from bonsai_quant.training.trajectories.layered import LayeredModel, Stream
from bonsai_quant.training.trajectories.prompts import Prompts

from .job import CalibrationJob

RECORDED = 4 << 30
"""Bytes of the inputs of all blocks that are in memory at a time."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """noise: [n, tokens, channels].  captions: [n, words, width].  sigmas: one more than steps.

    n: prompts of this process: of `processes.size` neighbours it has the one of its rank.
    """

    model: LayeredModel
    noise: torch.Tensor
    captions: torch.Tensor
    sigmas: list[float]
    at_once: int
    processes: ProcessGroup

    @property
    def group(self) -> int:
        """Prompts whose blocks' inputs fit into RECORDED."""
        tokens = self.noise.shape[1] + self.captions.shape[1]
        each = 4 * len(self.model.block_names) * int(tokens) * self.model.width
        return max(1, min(len(self.noise), RECORDED // each))

    def index(self, own: int) -> int:
        """Which of all prompts one of this process is."""
        return own * self.processes.size + self.processes.rank

    def streams(self, states: list[torch.Tensor]) -> list[Stream]:
        """The inputs of the first block. states: like noise, level by level."""
        entered = []
        for z, sigma in zip(states, self.sigmas, strict=False):
            for part, captions in zip(z.split(self.at_once), self.captions.split(self.at_once),
                                      strict=True):  # fmt: skip
                level = torch.full((len(part),), sigma, device=self.model.device)
                device = self.model.device
                entered.append(self.model.enter(part.to(device), level, captions.to(device)))
        return entered


def prepare(job: CalibrationJob, prompts: Prompts, processes: ProcessGroup) -> Prepared:
    """Encode the prompts, draw the noise, and load what stands around the blocks."""
    if len(prompts.used) % processes.size:
        raise UsageError(
            f"{len(prompts.used)} prompts cannot be shared evenly by {processes.size} processes",
            hint=f"use a multiple of {processes.size}",
        )
    settings, runner = job.pictures, TorchRunner(job.pipeline)
    words = settings.max_sequence_length
    captions = torch.from_numpy(runner.encode(list(prompts.used), words))
    seeds = [job.seed * 1_000_003 + i for i in range(len(prompts.used))]
    noise = start(seeds, settings, job.pipeline.channels)
    _, rows, columns, _ = noise.shape
    model = LayeredModel(
        job.plan.tensors, job.plan.info.config, job.family.blocks, (rows, columns, words),
        processes.device,
    )  # fmt: skip
    sigmas = levels(rows * columns, settings.num_inference_steps)
    return Prepared(
        model, processes.share(torch.from_numpy(noise).flatten(1, 2)), processes.share(captions),
        list(sigmas), job.at_once, processes,
    )  # fmt: skip
