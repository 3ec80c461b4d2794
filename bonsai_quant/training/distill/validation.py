"""How good the student is on held-out prompts: the error of its velocities, and the score of its
pictures where a checker can tell whether they show what the prompts say."""

from __future__ import annotations

import numpy as np
import torch

from bonsai_quant.evaluation.judging import judge, shrink
from bonsai_quant.evaluation.task import scenery
from bonsai_quant.runners.picture_settings import Benchmark
from bonsai_quant.runners.runner import Runner, as_bytes
from bonsai_quant.runners.sampling import Latents
from bonsai_quant.training.trajectories.denoiser import walk
from bonsai_quant.training.trajectories.prompts import Prompts

from .batches import Batches
from .trainer import Trainer


class Validation:
    """captions: [held prompts, words, width].  noise: [held prompts, rows, columns, channels]."""

    def __init__(
        self, prompts: Prompts, captions: torch.Tensor, noise: Latents, benchmark: Benchmark,
        runner: Runner,
    ) -> None:  # fmt: skip
        self.prompts, self.captions, self.grid = prompts, captions, noise.shape
        self.noise = torch.from_numpy(noise).flatten(1, 2)
        self.benchmark, self.runner = benchmark, runner

    def measure(self, trainer: Trainer) -> dict[str, float]:
        """error: of the velocity on the student's own path, over the teacher's.  score: if judged.

        The running mean of the weights is measured, as it would be stored.
        """
        batches = trainer.batches
        with trainer.ema.swapped_in(), torch.no_grad():
            figures = {"error": self._error(trainer, batches)}
            if self.prompts.captions:
                figures["score"] = self._score(trainer, batches)
        return figures

    def _error(self, trainer: Trainer, batches: Batches) -> float:
        total, n = 0.0, 0
        for captions, noise in self._parts(batches):
            batch = batches.along(trainer.student, trainer.teacher, noise, captions)
            for z, sigma, texts, target, weight in batches.pieces(
                batch.z, batch.sigma, batch.captions, batch.target, batch.weight
            ):
                off = (trainer.student(z, sigma, texts) - target).square().mean((1, 2))
                total += float((weight * off).sum())
                n += len(z)
        return total / n

    def _score(self, trainer: Trainer, batches: Batches) -> float:
        painted = [
            walk(trainer.student, noise, captions, batches.sigmas)[-1].float().cpu()
            for captions, noise in self._parts(batches)
        ]
        latents = torch.cat(painted).numpy().reshape(self.grid)
        with self.runner.decoder() as decode:
            at_once = range(0, len(latents), batches.settings.at_once)
            pictures = [as_bytes(decode(latents[i : i + at_once.step])) for i in at_once]
        world = scenery(self.benchmark)
        small = shrink(np.concatenate(pictures), world.pixels)[:, None]
        return float(judge(small, self.prompts.captions, world).passed.mean())

    def _parts(self, batches: Batches) -> list[tuple[torch.Tensor, torch.Tensor]]:
        device = batches.processes.device
        return [(c.to(device), z.to(device)) for c, z in batches.pieces(self.captions, self.noise)]
