"""An MLX deployment: the text encoder in MLX's affine 4 bits, the other parts as they are.

All layers are there, and all in 4 bits: Bonsai Image's clients build 36 layers of 4-bit linears
whatever the config says.
"""

from __future__ import annotations

import logging

from bonsai_quant.sources.components import Components

from .contents import Deployment, MadeEncoder, encoder_files, index, json_bytes
from .scheme import BITS, GROUP, MLX

FOLDER = "text_encoder-mlx-4bit"

log = logging.getLogger(__name__)


def deployment(parts: Components) -> Deployment:
    """What stands beside `transformer-packed-mflux/`."""
    copies = {f.name: f for part in ("", "scheduler", "tokenizer", "vae") for f in parts.of(part)}
    for spec in (t.spec for t in parts.encoder.tensors):
        if len(spec.shape) == 2 and not MLX.packed(spec):
            log.info("%s: stays in 16 bits: groups of %d do not fill its rows", spec.name, GROUP)
    how = {"bits": BITS, "group_size": GROUP}
    # mlx-lm reads the one key, the Hub's pages and other clients the other.
    config = {**parts.encoder.config, "quantization": how, "quantization_config": how}
    encoder = MadeEncoder(
        scheme=MLX,
        path=f"{FOLDER}/model.safetensors",
        size=MLX.layout(parts.encoder).size,
        encoder=parts.encoder,
        files=encoder_files(parts),
    )
    small = {f"{FOLDER}/config.json": json_bytes(config)} | index(parts, always=False)
    return Deployment(copies, small, encoder)
