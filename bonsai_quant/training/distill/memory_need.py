"""What a training run takes of every device, told before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bonsai_quant.core.memory import require
from bonsai_quant.core.numbers import size
from bonsai_quant.core.schema import GROUP
from bonsai_quant.runners.picture_settings import read_benchmark
from bonsai_quant.runners.sampling import PIXELS

if TYPE_CHECKING:
    from .job import DistillationJob

PASSING = 34
"""Floats that a block keeps for its gradient, per token and channel: its widths added up."""


def needed(job: DistillationJob, processes: int, *, half: bool) -> dict[str, int]:
    """Bytes of one process by what they are for. half: the teacher and products are in bfloat16."""
    tensors, config, settings = job.plan.tensors, job.pipeline.config, job.settings
    pictures = read_benchmark(job.pipeline.folder).settings
    tokens = pictures.height * pictures.width // PIXELS**2
    weights = sum(t.tensor.size for t in tensors)
    width = int(config["num_attention_heads"]) * int(config["attention_head_dim"])
    blocks = int(config["num_layers"]) + int(config["num_single_layers"])
    one = settings.at_once * (tokens + pictures.max_sequence_length) * width * (2 if half else 4)
    kept = blocks * one + PASSING * one if settings.checkpointing else blocks * PASSING * one
    if job.tunes:
        return _tuning(job, processes, half=half) | {"what gradients are computed from": kept}
    share = -(-weights // processes)
    return {
        "latent weights, float32": 4 * share,
        "their gradients": 4 * share,
        "Adam's two moments": 8 * share,
        "running mean": 4 * share if settings.average else 0,
        "codes that are watched for jumps": 4 * share if settings.freeze else 0,
        "teacher": (2 if half else 4) * weights,
        "one block's weights, whole and rounded": 8 * max(t.tensor.size for t in tensors),
        "what gradients are computed from": kept,
    }


DECODING = 13
"""Bytes for each weight of the layer whose codes are decoded: digits, levels, weight, gradient."""


def _tuning(job: DistillationJob, processes: int, *, half: bool) -> dict[str, int]:
    """The same where codes stay, but for what gradients are computed from."""
    tensors, settings = job.plan.tensors, job.settings
    packed = [t.tensor for t in tensors if t.tensor.packed]
    trained = sum(t.tensor.size for t in tensors if not t.tensor.packed)
    trained += sum(t.size // GROUP for t in packed)
    share = -(-trained // processes)
    blocks: dict[str, int] = {}
    for t in packed:
        name = ".".join(t.name.split(".")[:2])
        blocks[name] = blocks.get(name, 0) + t.size
    decoded = max(blocks.values()) if settings.checkpointing else sum(blocks.values())
    return {
        "codes": sum(t.size * job.plan.info.bits // 8 for t in packed),
        "scales and kept tensors, float32": 4 * share,
        "their gradients": 4 * share,
        "Adam's two moments": 8 * share,
        "running mean": 4 * share if settings.average else 0,
        "teacher": (2 if half else 4) * sum(t.tensor.size for t in tensors),
        "decoded weights": 4 * decoded + DECODING * max(t.size for t in packed),
    }


def check_room(parts: Mapping[str, int], free: int, where: str) -> None:
    """Refuse what cannot fit."""
    need, most = sum(parts.values()), max(parts, key=lambda p: parts[p])
    problem = f"about {size(need)} are needed on each device ({most}: {size(parts[most])})"
    require(
        need,
        free,
        problem=problem,
        where=where,
        hint="start more processes with torchrun, or lower at_once in the recipe",
    )
