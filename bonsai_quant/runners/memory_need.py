"""How much memory a picture takes, told before anything is loaded."""

from __future__ import annotations

from pathlib import Path

from bonsai_quant.core.memory import available, require
from bonsai_quant.core.numbers import size
from bonsai_quant.core.schema import PictureSettings
from bonsai_quant.packs.pipeline import Pipeline

from .loras import bytes_of
from .sampling import PIXELS

ON_THE_WAY = 100 << 20
"""Bytes of what is imported and compiled while running."""


def check_memory(
    pipeline: Pipeline, settings: PictureSettings, at_rest: int, max_memory: int | None
) -> None:
    """Refuse before loading what would not fit."""
    need = at_rest + ON_THE_WAY + needed(pipeline, settings)
    require(
        need,
        at_rest + available(),
        max_memory,
        problem=f"about {size(need)} of memory are needed",
        where=pipeline.name,
        hint="give a smaller --size, close other programs, or use the binary pack",
    )


def needed(pipeline: Pipeline, settings: PictureSettings) -> int:
    """About how many bytes the largest part takes, with what it computes."""
    tokens = settings.height * settings.width // PIXELS**2
    width = int(pipeline.config["num_attention_heads"]) * int(pipeline.config["attention_head_dim"])
    # A single block's widest moment: queries, keys, values, gate, value and their product.
    passing = 4 * (tokens + settings.max_sequence_length) * width * 18
    decoding = 4 * settings.height * settings.width * 1000
    return max(
        _stored_bytes(pipeline.part("text_encoder")) + passing,
        _transformer_bytes(pipeline) + bytes_of(pipeline.loras) + passing,
        2 * _stored_bytes(pipeline.part("vae")) + decoding,
    )


def _transformer_bytes(pipeline: Pipeline) -> int:
    if pipeline.pack is None:
        return _stored_bytes(pipeline.part("transformer"))
    info = pipeline.pack.info
    packed = sum(t.size * info.bits // 8 + t.size // 64 for t in info.packed)
    return packed + sum(2 * t.size for t in info.kept)


def _stored_bytes(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.iterdir() if f.suffix in (".safetensors", ".pt"))
