"""Writing a whole pipeline whose transformer is new and whose other parts are a source's."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from bonsai_quant.conversion.provenance import WEIGHTS as HASH
from bonsai_quant.core.schema import TensorSpec
from bonsai_quant.packs.pipeline import Pipeline
from bonsai_quant.runners.picture_settings import NAME as BENCHMARK
from bonsai_quant.sources.components import INDEX
from bonsai_quant.sources.components.layout import CLASSES
from bonsai_quant.sources.license import CARD
from bonsai_quant.storage.containers.layout import safetensors_layout
from bonsai_quant.storage.copy import copy_file
from bonsai_quant.storage.staging import Staging
from bonsai_quant.storage.writer import WeightFile

CONFIG = "transformer/config.json"
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


def write_pipeline(
    staging: Staging,
    pipeline: Pipeline,
    specs: Sequence[TensorSpec],
    data: Callable[[str], np.ndarray],
    record: tuple[str, Callable[[], Mapping[str, object]]],
    more: Collection[str] = (),
) -> set[str]:
    """Write everything; -> the files.

    data: a tensor's stored values by its name, asked for one at a time.  record: a JSON file's name
    and what it says, asked for when all tensors are written; the hash of the weight file and the
    list of all files are added.  more: files that the caller writes.
    """
    files = dict(_other_parts(pipeline.folder))
    for relative, path in files.items():
        copy_file(staging, relative, path)
    file = WeightFile(staging, WEIGHTS, safetensors_layout(specs, {"format": "pt"}), resume=False)
    try:
        for spec in specs:
            file.put(spec.name, data(spec.name))
        _, sha256 = file.finish()
    finally:
        file.close()
    name, fields = record
    every = {*files, *more, WEIGHTS, CONFIG, name}
    written = {**fields(), HASH: sha256, "files": sorted(every)}
    for relative, value in ((CONFIG, pipeline.config), (name, written)):
        staging.write_file(relative, json.dumps(value, indent=2).encode() + b"\n")
    return every


def _other_parts(pipeline: Path) -> Iterator[tuple[str, Path]]:
    """Files of the parts that stay, what says how they belong together, and the license."""
    for name in (INDEX, BENCHMARK, CARD):
        if (pipeline / name).is_file():
            yield name, pipeline / name
    for part in sorted(set(CLASSES) - {"transformer"}):
        for path in sorted((pipeline / part).rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                yield str(path.relative_to(pipeline)), path
