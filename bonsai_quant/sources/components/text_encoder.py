"""A text encoder's tensors, from its headers, held against what its config calls for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bonsai_quant.core.errors import BadInput, Unsupported
from bonsai_quant.core.schema import StoredTensor
from bonsai_quant.sources.shards import check_index, find_index, gather, weight_files
from bonsai_quant.storage.containers.safetensors import read_header
from bonsai_quant.storage.strict_json import read_json

READABLE = ("BF16", "F16", "F32")
HEAD = "lm_head.weight"
MAX_LAYERS = 1000
SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
         "num_attention_heads", "num_key_value_heads", "head_dim")  # fmt: skip
"""Fields of the config that tell every shape."""


@dataclass(frozen=True, slots=True)
class TextEncoder:
    """A Qwen3 text encoder: its config.json, and its tensors by name.

    unused: stored, but no part of the model: the head that is the embedding again, and layers that
    are left out.
    """

    folder: Path
    config: Mapping[str, Any]
    tensors: tuple[StoredTensor, ...]
    unused: tuple[StoredTensor, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """The weight files, in name order."""
        return tuple(sorted({t.path for t in (*self.tensors, *self.unused)}))

    @property
    def stored_bytes(self) -> int:
        """Bytes of its tensors."""
        return sum(t.spec.nbytes for t in self.tensors)

    def shortened(self, layers: int) -> TextEncoder:
        """Its first layers alone; itself, if it has no more than so many."""
        if self.config["num_hidden_layers"] <= layers:
            return self
        config = {**self.config, "num_hidden_layers": layers}
        if isinstance(kinds := config.get("layer_types"), list):
            config["layer_types"] = kinds[:layers]
        names = shapes(config)
        used = tuple(t for t in self.tensors if t.spec.name in names)
        left_out = tuple(t for t in self.tensors if t.spec.name not in names)
        return TextEncoder(self.folder, config, used, (*self.unused, *left_out))


def read_encoder(folder: Path) -> TextEncoder:
    """Recognise a text encoder's folder; reads its config and headers."""
    config = _config(folder / "config.json")
    _, files = weight_files(folder)
    headers = [read_header(f) for f in files]
    stored = gather(headers)
    if (index := find_index(folder)) is not None:
        check_index(index, headers, folder, strict=False)
    expected = shapes(config)
    tied = config.get("tie_word_embeddings", False)
    for name in sorted(set(expected) | set(stored)):
        if not (tied and name == HEAD):
            _check(name, expected.get(name), stored.get(name), folder)
    tensors = tuple(stored[n] for n in sorted(expected))
    unused = tuple(t for n, t in stored.items() if n not in expected)
    return TextEncoder(folder, config, tensors, unused)


def shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a Qwen3 of this config."""
    words, width, inner, layers, heads, shared, size = (int(config[k]) for k in SIZES)
    of_layer = {
        "input_layernorm": (width,),
        "mlp.down_proj": (width, inner),
        "mlp.gate_proj": (inner, width),
        "mlp.up_proj": (inner, width),
        "post_attention_layernorm": (width,),
        "self_attn.k_norm": (size,),
        "self_attn.k_proj": (shared * size, width),
        "self_attn.o_proj": (width, heads * size),
        "self_attn.q_norm": (size,),
        "self_attn.q_proj": (heads * size, width),
        "self_attn.v_proj": (shared * size, width),
    }
    expected: dict[str, tuple[int, ...]] = {
        f"model.layers.{i}.{name}.weight": shape
        for i in range(layers)
        for name, shape in of_layer.items()
    }
    expected |= {"model.embed_tokens.weight": (words, width), "model.norm.weight": (width,)}
    if not config.get("tie_word_embeddings", False):
        expected[HEAD] = (words, width)
    return expected


def _config(path: Path) -> dict[str, Any]:
    config = read_json(path)
    if not isinstance(config, dict) or config.get("model_type") != "qwen3":
        kind = config.get("model_type") if isinstance(config, dict) else config
        raise Unsupported(f"is for {str(kind)[:80]!r}, not a Qwen3 text encoder", where=str(path))
    if config.get("attention_bias") or "quantization_config" in config:
        if config.get("attention_bias"):
            raise Unsupported("has biases, which Klein's text encoder does not", where=str(path))
        raise Unsupported(
            "is quantized already", where=str(path), hint="give the source's pipeline"
        )
    for key in SIZES:
        value, most = config.get(key), MAX_LAYERS if key == "num_hidden_layers" else 1 << 24
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= most:
            raise BadInput(
                f"has {key} = {str(value)[:40]}; 1 to {most} is expected",
                where=str(path),
                hint="fetch it again",
            )
    return config


def _check(
    name: str, expected: tuple[int, ...] | None, stored: StoredTensor | None, folder: Path
) -> None:
    if stored is None:
        raise BadInput(
            "is missing", where=(folder, f"tensor {name}"), hint="fetch the text encoder again"
        )
    where = (stored.path, f"tensor {name}")
    if expected is None:
        raise Unsupported("has no place in a Qwen3 of this config", where=where)
    if stored.spec.shape != expected or math.prod(expected) == 0:
        raise BadInput(
            f"is {list(stored.spec.shape)}, its config calls for {list(expected)}",
            where=where,
            hint="fetch the text encoder again",
        )
    if stored.spec.dtype not in READABLE:
        raise Unsupported(
            f"has dtype {stored.spec.dtype}; {', '.join(READABLE)} are read", where=where
        )
