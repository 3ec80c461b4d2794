"""A deployment for diffusers with sdnq: a whole pipeline, its other components as they are."""

from __future__ import annotations

from typing import Any

from bonsai_quant.sources.components import CLASS, CLASSES, FOLDERS, INDEX, Components

from .contents import Deployment, json_bytes


def deployment(parts: Components) -> Deployment:
    """What stands beside `transformer/`, so that `from_pretrained` loads the folder."""
    copies = {f.name: f for part in ("", *FOLDERS) for f in parts.of(part)}
    return Deployment(copies, {INDEX: json_bytes(_index(parts))}, None)


def _index(parts: Components) -> dict[str, Any]:
    """model_index.json, by which diffusers finds the class of each component."""
    names = {component: classes[0] for component, classes in CLASSES.items()}
    names["tokenizer"] = parts.tokenizer
    from_transformers = ("text_encoder", "tokenizer")
    entries = {c: ["transformers" if c in from_transformers else "diffusers", n]
               for c, n in sorted(names.items())}  # fmt: skip
    about = {"_class_name": CLASS, "_diffusers_version": parts.version}
    return about | {"is_distilled": parts.distilled} | entries
