"""Held-out prompts, looked at now and then: how far the student's velocities are off, and whether
its pictures show what the prompts say, where a checker can tell."""

from __future__ import annotations

import numpy as np
import torch

from bonsai_quant.evaluation.gallery import judge, scenery, shrink
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

    def sit(self, trainer: Trainer) -> dict[str, float]:
        """error: of the velocity on the student's own way, over the teacher's.  score: if judged.

        The average of the weights is looked at, as it would be stored.
        """
        lessons = trainer.lessons
        with trainer.average.shown(), torch.no_grad():
            marks = {"error": self._error(trainer, lessons)}
            if self.prompts.captions:
                marks["score"] = self._score(trainer, lessons)
        return marks

    def _error(self, trainer: Trainer, lessons: Batches) -> float:
        total, n = 0.0, 0
        for captions, noise in self._parts(lessons):
            lesson = lessons.along(trainer.student, trainer.teacher, noise, captions)
            for z, sigma, told, target, weight in lessons.pieces(
                lesson.z, lesson.sigma, lesson.captions, lesson.target, lesson.weight
            ):
                off = (trainer.student(z, sigma, told) - target).square().mean((1, 2))
                total += float((weight * off).sum())
                n += len(z)
        return total / n

    def _score(self, trainer: Trainer, lessons: Batches) -> float:
        painted = [
            walk(trainer.student, noise, captions, lessons.sigmas)[-1].float().cpu()
            for captions, noise in self._parts(lessons)
        ]
        latents = torch.cat(painted).numpy().reshape(self.grid)
        with self.runner.decoder() as decode:
            at_once = range(0, len(latents), lessons.settings.at_once)
            made = [as_bytes(decode(latents[i : i + at_once.step])) for i in at_once]
        world = scenery(self.benchmark)
        pictures = shrink(np.concatenate(made), world.pixels)[:, None]
        return float(judge(pictures, self.prompts.captions, world).passed.mean())

    def _parts(self, lessons: Batches) -> list[tuple[torch.Tensor, torch.Tensor]]:
        device = lessons.ranks.device
        return [(c.to(device), z.to(device)) for c, z in lessons.pieces(self.captions, self.noise)]
