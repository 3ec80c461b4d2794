"""The trained model as a whole pipeline's folder, which `convert` packs without any loss."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..benchmark import NAME as BENCHMARK
from ..runners.places import INDEX, PARTS, Place
from ..schema import TensorSpec
from ..storage.copies import copy_file
from ..storage.layout import safetensors_layout
from ..storage.staging import Staging
from ..storage.writer import WeightFile

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
RECORD = "distillation.json"


def write_pipeline(
    staging: Staging,
    place: Place,
    shapes: dict[str, tuple[int, ...]],
    weight: Callable[[str], torch.Tensor],
    record: dict[str, Any],
) -> set[str]:
    """Write everything; -> the files. weight: bf16 by name. record: how it was made."""
    files = dict(_other_parts(place.pipeline))
    for relative, path in files.items():
        copy_file(staging, relative, path)
    write_weights(staging, shapes, weight)
    small = {
        "transformer/config.json": dict(place.config),
        RECORD: record,
    }
    for relative, value in small.items():
        staging.write_file(relative, json.dumps(value, indent=2).encode() + b"\n")
    return {*files, *small, WEIGHTS}


def write_weights(
    staging: Staging, shapes: dict[str, tuple[int, ...]], weight: Callable[[str], torch.Tensor]
) -> None:
    """One safetensors file in bf16, a tensor at a time."""
    specs = [TensorSpec(n, "BF16", s) for n, s in shapes.items()]
    file = WeightFile(staging, WEIGHTS, safetensors_layout(specs, {"format": "pt"}), resume=False)
    try:
        for name in shapes:
            file.put(name, weight(name).contiguous().view(torch.uint16).numpy().astype(np.uint16))
        file.finish()
    finally:
        file.close()


def _other_parts(pipeline: Path) -> Iterator[tuple[str, Path]]:
    """Files of the parts that are not trained, and what says how they belong together."""
    for name in (INDEX, BENCHMARK):
        if (pipeline / name).is_file():
            yield name, pipeline / name
    for part in sorted(set(PARTS) - {"transformer"}):
        for path in sorted((pipeline / part).rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                yield str(path.relative_to(pipeline)), path
