"""A deployment for diffusers with the package sdnq: a whole pipeline.

The text encoder has the layers that are read, their linears in 4 bits. The other components are as
they are.
"""

from __future__ import annotations

from typing import Any

from bonsai_quant.packs.formats.sdnq import SDNQ as VERSION
from bonsai_quant.sources.components import (
    FOLDERS,
    INDEX,
    NEEDED_LAYERS,
    Components,
    TextEncoder,
)
from bonsai_quant.sources.components.text_encoder import HEAD

from .contents import Deployment, MadeEncoder, encoder_files, json_bytes
from .diffusers import pipeline_index
from .scheme import SDNQ, SDNQ_GROUP

FOLDER = "text_encoder"


def deployment(parts: Components) -> Deployment:
    """What stands beside `transformer/`, so that `from_pretrained` loads the folder."""
    encoder, read = parts.encoder.shortened(NEEDED_LAYERS), encoder_files(parts)
    others = (f for part in ("", *FOLDERS) for f in parts.of(part) if f not in read)
    config = {**encoder.config, "quantization_config": _settings(encoder)}
    small = {INDEX: json_bytes(pipeline_index(parts)), f"{FOLDER}/config.json": json_bytes(config)}
    return Deployment({f.name: f for f in others}, small, MadeEncoder(
        scheme=SDNQ, path=f"{FOLDER}/model.safetensors", size=SDNQ.layout(encoder).size,
        encoder=encoder, files=read,
    ))  # fmt: skip


def _settings(encoder: TextEncoder) -> dict[str, Any]:
    """What sdnq must know, as in the transformer's config.

    The head is named even where it is the embedding again: as a module it is there.
    """
    kept = {t.spec.name for t in encoder.tensors if not SDNQ.packed(t.spec)}
    matrices = {t.spec.name for t in encoder.tensors if len(t.spec.shape) == 2}
    return {
        "quant_method": "sdnq",
        "sdnq_version": VERSION,
        "weights_dtype": "uint4",
        "group_size": SDNQ_GROUP,
        "modules_to_not_convert": sorted((kept & matrices) | {HEAD}),
        "add_skip_keys": False,
        "dequantize_fp32": True,
        "use_quantized_matmul": False,
    }
