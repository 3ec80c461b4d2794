"""What a training run takes of every device, told before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bonsai_quant.core.memory import require
from bonsai_quant.core.numbers import size
from bonsai_quant.core.schema import GROUP
from bonsai_quant.runners.picture_settings import read_benchmark
from bonsai_quant.runners.sampling import PIXELS

from .adam_8bit import moments as moments_8bit

if TYPE_CHECKING:
    from .job import DistillationJob

PASSING = 30
"""Floats that a block keeps for its gradient, per token and channel, as measured on mini-klein."""
AT_HAND = 16
"""Bytes for each weight of a layer that is rounded, or updated: four copies in float32."""
TEACHER_IN_PASSING = 2
"""Blocks of a teacher in main memory that are on the device: one computes, one comes."""


def needed(job: DistillationJob, processes: int, *, half: bool) -> dict[str, int]:
    """Bytes of one process by what they are for. half: the teacher and products are in bfloat16."""
    config, settings = job.pipeline.config, job.settings
    pictures = read_benchmark(job.pipeline.folder).settings
    tokens = pictures.height * pictures.width // PIXELS**2
    width = int(config["num_attention_heads"]) * int(config["attention_head_dim"])
    blocks = int(config["num_layers"]) + int(config["num_single_layers"])
    one = settings.at_once * (tokens + pictures.max_sequence_length) * width * (2 if half else 4)
    kept = blocks * one + PASSING * one if settings.checkpointing else blocks * PASSING * one
    if job.tunes:
        return _tuning(job, processes, half=half) | {"what gradients are computed from": kept}
    parts = _distilling(job, processes, half=half)
    if settings.at_once * processes >= settings.batch:
        # One piece: gradients come as that which they are computed from goes.
        kept = max(0, kept - parts["their gradients"])
    return parts | {"what gradients are computed from": kept}


def _distilling(job: DistillationJob, processes: int, *, half: bool) -> dict[str, int]:
    """The same where codes change, but for what gradients are computed from."""
    tensors, settings = job.plan.tensors, job.settings
    weights, savings = sum(t.tensor.size for t in tensors), settings.savings
    packed = sum(t.tensor.size for t in tensors if t.tensor.packed)
    largest = max(t.tensor.size for t in tensors)
    share, blocks = -(-weights // processes), block_sizes(job)
    rounded = max(blocks.values()) if settings.checkpointing else sum(blocks.values())
    small, summed = "bf16-latents" in savings, 4 * share
    if "gradients-offloaded" in savings:
        summed = 4 * largest
    moments = 8 * share
    if "8bit-moments" in savings:
        moments = sum(moments_8bit(t.tensor.size) for t in tensors)
    mean = settings.average and "mean-offloaded" not in savings
    teacher = TEACHER_IN_PASSING * max(blocks.values()) + weights - sum(blocks.values())
    return {
        "latent weights": 4 * share - (2 * packed if small else 0),
        "their gradients": summed,
        "Adam's two moments": moments,
        "running mean": 4 * share if mean else 0,
        "codes that are watched for jumps": 4 * -(-packed // processes) if settings.freeze else 0,
        "teacher": (2 if half else 4) * (teacher if "teacher-offloaded" in savings else weights),
        "weights of blocks, rounded": (2 if half else 4) * rounded,
        "the weight at hand": AT_HAND * largest,
    }


def in_main_memory(job: DistillationJob, *, half: bool) -> dict[str, int]:
    """Bytes that savings move from the device to main memory."""
    weights = sum(t.tensor.size for t in job.plan.tensors)
    sizes = {
        "teacher-offloaded": (2 if half else 4) * weights,
        "mean-offloaded": 4 * weights if job.settings.average else 0,
        "gradients-offloaded": 4 * weights,
    }
    return {name: n for name, n in sizes.items() if name in job.settings.savings}


def block_sizes(job: DistillationJob) -> dict[str, int]:
    """Packed weights of every block of the transformer, by its name."""
    blocks: dict[str, int] = {}
    for t in job.plan.tensors:
        if t.tensor.packed:
            name = ".".join(t.tensor.name.split(".")[:2])
            blocks[name] = blocks.get(name, 0) + t.tensor.size
    return blocks


DECODING = 13
"""Bytes for each weight of the layer whose codes are decoded: digits, levels, weight, gradient."""


def _tuning(job: DistillationJob, processes: int, *, half: bool) -> dict[str, int]:
    """The same where codes stay, but for what gradients are computed from."""
    tensors, settings = job.plan.tensors, job.settings
    packed, blocks = [t.tensor for t in tensors if t.tensor.packed], block_sizes(job)
    trained = sum(t.tensor.size for t in tensors if not t.tensor.packed)
    trained += sum(t.size // GROUP for t in packed)
    share = -(-trained // processes)
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
