"""Deployments for diffusers: whole pipelines, with our plug-in or with the package sdnq.

The text encoder has the layers that are read, their linears in 4 bits. The other components are as
they are.
"""

from __future__ import annotations

from typing import Any

from bonsai_quant.packs.formats.diffusers import METHOD
from bonsai_quant.packs.formats.sdnq import SDNQ as VERSION
from bonsai_quant.sources.components import (
    CLASS,
    CLASSES,
    FOLDERS,
    INDEX,
    NEEDED_LAYERS,
    Components,
    TextEncoder,
)
from bonsai_quant.sources.components.text_encoder import HEAD

from .contents import Deployment, MadeEncoder, encoder_files, json_bytes
from .scheme import BITS, SDNQ, SDNQ_GROUP

FOLDER = "text_encoder"


def with_plugin(parts: Components) -> Deployment:
    """What stands beside `transformer/`, so that `from_pretrained` loads the folder."""
    kept = [name.removesuffix(".weight") for name in _kept(_encoder(parts))]
    return _deployment(parts, {
        "quant_method": METHOD,
        "bits": BITS,
        "group_size": SDNQ_GROUP,
        "modules_to_not_convert": kept,
    })  # fmt: skip


def with_sdnq(parts: Components) -> Deployment:
    """The same; sdnq must know of the text encoder what it must know of the transformer."""
    return _deployment(parts, {
        "quant_method": "sdnq",
        "sdnq_version": VERSION,
        "weights_dtype": f"uint{BITS}",
        "group_size": SDNQ_GROUP,
        "modules_to_not_convert": _kept(_encoder(parts)),
        "add_skip_keys": False,
        "dequantize_fp32": True,
        "use_quantized_matmul": False,
    })  # fmt: skip


def _deployment(parts: Components, settings: dict[str, Any]) -> Deployment:
    encoder, read = _encoder(parts), encoder_files(parts)
    others = (f for part in ("", *FOLDERS) for f in parts.of(part) if f not in read)
    config = {**encoder.config, "quantization_config": settings}
    small = {INDEX: json_bytes(_index(parts)), f"{FOLDER}/config.json": json_bytes(config)}
    return Deployment({f.name: f for f in others}, small, MadeEncoder(
        scheme=SDNQ, path=f"{FOLDER}/model.safetensors", size=SDNQ.layout(encoder).size,
        encoder=encoder, files=read,
    ))  # fmt: skip


def _encoder(parts: Components) -> TextEncoder:
    return parts.encoder.shortened(NEEDED_LAYERS)


def _kept(encoder: TextEncoder) -> list[str]:
    """Matrices without codes. The head is one even where it is the embedding again."""
    matrices = (t.spec for t in encoder.tensors if len(t.spec.shape) == 2)
    return sorted({s.name for s in matrices if not SDNQ.packed(s)} | {HEAD})


def _index(parts: Components) -> dict[str, Any]:
    """model_index.json, by which diffusers finds the class of each component."""
    names = {component: classes[0] for component, classes in CLASSES.items()}
    names["tokenizer"] = parts.tokenizer
    from_transformers = ("text_encoder", "tokenizer")
    entries = {c: ["transformers" if c in from_transformers else "diffusers", n]
               for c, n in sorted(names.items())}  # fmt: skip
    about = {"_class_name": CLASS, "_diffusers_version": parts.version}
    return about | {"is_distilled": parts.distilled} | entries
