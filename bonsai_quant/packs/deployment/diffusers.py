"""A deployment for diffusers with our plug-in: a whole pipeline.

The text encoder has the layers that are read, in 16 bits. The other components are as they are.
"""

from __future__ import annotations

from typing import Any

from bonsai_quant.sources.components import CLASS, CLASSES, FOLDERS, INDEX, Components

from .contents import Deployment, in_16_bits, json_bytes


def deployment(parts: Components) -> Deployment:
    """What stands beside `transformer/`, so that `from_pretrained` loads the folder."""
    encoder, config, beside = in_16_bits(parts)
    others = [f for part in ("", *FOLDERS) if part != "text_encoder" for f in parts.of(part)]
    small = {INDEX: json_bytes(pipeline_index(parts))} | config
    return Deployment({f.name: f for f in (*others, *beside)}, small, encoder)


def pipeline_index(parts: Components) -> dict[str, Any]:
    """model_index.json, by which diffusers finds the class of each component."""
    names = {component: classes[0] for component, classes in CLASSES.items()}
    names["tokenizer"] = parts.tokenizer
    from_transformers = ("text_encoder", "tokenizer")
    entries = {c: ["transformers" if c in from_transformers else "diffusers", n]
               for c, n in sorted(names.items())}  # fmt: skip
    about = {"_class_name": CLASS, "_diffusers_version": parts.version}
    return about | {"is_distilled": parts.distilled} | entries
