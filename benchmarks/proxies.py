"""What can be told of a pack without painting whole pictures and judging them."""

from __future__ import annotations

import numpy as np
import torch
from diffusers import Flux2Transformer2DModel

from bonsai_quant.evaluation.task import Task
from bonsai_quant.packs.pipeline import Pipeline
from bonsai_quant.packs.read import Pack
from bonsai_quant.quantization.dequantize import weights
from bonsai_quant.runners.runner import start
from bonsai_quant.runners.sampling import levels
from bonsai_quant.runners.torch.dense import dense_transformer
from bonsai_quant.runners.torch.runner import TorchRunner
from bonsai_quant.training.trajectories.denoiser import Denoiser, walk

PROXIES = {
    "weights": "weights: relative error",
    "teacher": "velocity on the source's way: relative error",
    "own": "velocity on its own way: relative error",
    "first": "velocity of the first step: cosine",
    "latents": "last latents: SNR, dB",
}
"""Name -> what it is. The first three are errors, which fall as the score rises."""
EACH = 8
"""Prompts of each category that are walked."""


class Proxies:
    """Measures packs against one source, on the first prompts of a task."""

    def __init__(self, source: Pipeline, task: Task) -> None:
        settings, runner = task.benchmark.settings, TorchRunner(source)
        n = task.per_category
        chosen = [i for c in range(len(task.prompts) // n) for i in range(c * n, c * n + EACH)]
        chosen = [i for i in chosen if i < len(task.prompts)]
        texts = [task.prompts[i].text for i in chosen]
        self.captions = torch.from_numpy(runner.encode(texts, settings.max_sequence_length))
        noise = start([task.seeds[i * task.images] for i in chosen], settings, source.channels)
        _, self.rows, self.columns, _ = noise.shape
        self.noise = torch.from_numpy(noise).flatten(1, 2)
        self.sigmas = levels(self.rows * self.columns, settings.num_inference_steps)
        self.words = settings.max_sequence_length
        folder = source.part("transformer")
        self.source = self._denoiser(
            Flux2Transformer2DModel.from_pretrained(folder, torch_dtype=torch.float32)
        )
        self.weights = self.source.transformer.state_dict()

    def _denoiser(self, model: Flux2Transformer2DModel) -> Denoiser:
        return Denoiser(model.eval(), self.rows, self.columns, self.words)

    @torch.no_grad()
    def of(self, pack: Pack) -> dict[str, float]:
        """All of PROXIES."""
        model = self._denoiser(dense_transformer(pack))
        theirs, mine = (
            walk(m, self.noise, self.captions, self.sigmas) for m in (self.source, model)
        )
        first = [self._velocity(m, self.noise, self.sigmas[0]) for m in (model, self.source)]
        cosine = torch.nn.functional.cosine_similarity(first[0].flatten(1), first[1].flatten(1))
        off = (mine[-1] - theirs[-1]).square().mean() / theirs[-1].square().mean()
        return {
            "weights": self._weight_error(pack),
            "teacher": self._error(model, theirs),
            "own": self._error(model, mine),
            "first": float(cosine.mean()),
            "latents": float(-10 * torch.log10(off)),
        }

    def _velocity(self, model: Denoiser, z: torch.Tensor, sigma: float) -> torch.Tensor:
        return model(z, torch.full((len(z),), sigma), self.captions)

    def _error(self, model: Denoiser, states: list[torch.Tensor]) -> float:
        """Square error of the velocities over the source's, mean over the steps."""
        shares = []
        for z, sigma in zip(states[:-1], self.sigmas[:-1], strict=True):
            velocity, expected = (self._velocity(m, z, sigma) for m in (model, self.source))
            shares.append(float((velocity - expected).square().mean() / expected.square().mean()))
        return float(np.mean(shares))

    def _weight_error(self, pack: Pack) -> float:
        """||w - s t|| / ||w|| over all packed layers."""
        error = energy = 0.0
        for t in pack.info.packed:
            w = self.weights[t.name].numpy()
            error += float(np.square(w - weights(pack.layer(t)), dtype=np.float64).sum())
            energy += float(np.square(w, dtype=np.float64).sum())
        return float(np.sqrt(error / energy))


def rank_correlation(proxy: list[float], score: list[float]) -> float:
    """Spearman's, ties sharing their mean rank."""
    a, b = (_ranks(np.asarray(v)) for v in (proxy, score))
    return float(np.corrcoef(a, b)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    return np.array([(values < v).sum() + ((values == v).sum() - 1) / 2 for v in values])
