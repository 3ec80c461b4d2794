"""An MLX deployment: the text encoder in MLX's affine 4 bits, the other parts as they are."""

from __future__ import annotations

import logging

from bonsai_quant.sources.components import Components

from .affine import BITS, GROUP, is_packed, layout
from .contents import Deployment, Quantized, encoder_files, index, json_bytes

FOLDER = "text_encoder-mlx-4bit"

log = logging.getLogger(__name__)


def deployment(parts: Components) -> Deployment:
    """What stands beside `transformer-packed-mflux/`."""
    copies = {f.name: f for part in ("", "scheduler", "tokenizer", "vae") for f in parts.of(part)}
    for spec in (t.spec for t in parts.encoder.tensors):
        if len(spec.shape) == 2 and not is_packed(spec):
            log.info("%s: stays in 16 bits: groups of %d do not fill its rows", spec.name, GROUP)
    how = {"bits": BITS, "group_size": GROUP}
    # mlx-lm reads the one key, the Hub's pages and other clients the other.
    config = {**parts.encoder.config, "quantization": how, "quantization_config": how}
    encoder = Quantized(
        by="mlx",
        path=f"{FOLDER}/model.safetensors",
        size=layout(parts.encoder).size,
        encoder=parts.encoder,
        files=encoder_files(parts),
    )
    small = {f"{FOLDER}/config.json": json_bytes(config)} | index(parts, always=False)
    return Deployment(copies, small, encoder)
