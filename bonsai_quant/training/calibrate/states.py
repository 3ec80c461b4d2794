"""The painted states and the weights of their tokens, kept for a run that is resumed."""

from __future__ import annotations

import torch
from safetensors.torch import load, save

from bonsai_quant.core.progress import Progress
from bonsai_quant.storage import fs
from bonsai_quant.storage.journal import Journal
from bonsai_quant.storage.staging import Staging

from .job import CalibrationJob
from .paint import TokenWeights, paint
from .prepared import Prepared

FILE = "states.safetensors"


def painted(
    job: CalibrationJob, prepared: Prepared, staging: Staging, journal: Journal, progress: Progress
) -> tuple[list[torch.Tensor], TokenWeights]:
    """The states, level by level, and what their tokens count in every part of every layer."""
    weights, known = TokenWeights(), journal.entries.get(FILE)
    path = staging.path / FILE
    if known is not None and path.is_file() and fs.sha256_file(path)[1] == known.get("sha256"):
        tensors = load(path.read_bytes())
        steps = len(prepared.sigmas) - 1
        weights.of = {_part(n): x for n, x in tensors.items() if not n.startswith("state ")}
        return [tensors[f"state {i}"] for i in range(steps)], weights
    blocks, groups = len(prepared.model.block_names), -(-len(prepared.noise) // prepared.group)
    runs = 2 * blocks * groups * (len(prepared.sigmas) - 1)
    progress.phase("painting the prompts and weighing tokens", runs, "blocks")
    parts = {linear: job.rows(linear) for linear in job.layers}
    states = paint(prepared, parts, weights, seed=job.seed, tick=progress.advance)
    weights.finish()
    tensors = {f"state {i}": z.contiguous() for i, z in enumerate(states)}
    tensors |= {f"{linear} {start}": w for (linear, start), w in weights.of.items()}
    staging.write_file(FILE, save(tensors))
    journal.add({"tensor": FILE, "sha256": fs.sha256_file(path)[1]})
    return states, weights


def _part(name: str) -> tuple[str, int]:
    linear, _, start = name.rpartition(" ")
    return linear, int(start)
