"""Qwen3 in MLX, by mlx-lm's own model, read at three layers as FLUX.2 Klein does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from bonsai_quant.runners.four_bits import BITS, MLX_NAMES, FourBits, four_bits
from bonsai_quant.runners.text import chats
from bonsai_quant.sources.components import READ_LAYERS


def load(folder: Path, dtype: mx.Dtype) -> Any:
    """The text encoder of a folder: 16 bits, or in codes as mlx-lm or sdnq write them."""
    from mlx_lm.models import qwen3
    from mlx_lm.utils import load_model

    stored = four_bits(folder)
    if stored is not None and stored.names != MLX_NAMES:
        model = _from_sdnq(folder, stored)
    else:
        # Whatever class or file the config names, this one is built.
        model, _ = load_model(
            folder, lazy=True, get_model_classes=lambda config: (qwen3.Model, qwen3.ModelArgs)
        )
    model.model.layers = model.model.layers[: READ_LAYERS[-1]]
    if stored is None:
        model.set_dtype(dtype)
    return model.model


def _from_sdnq(folder: Path, stored: FourBits) -> Any:
    """sdnq's codes are MLX's words in one row of bytes; scales and zero points are MLX's."""
    from mlx import nn
    from mlx_lm.models import qwen3

    arrays: Any = mx.load(str(folder / "model.safetensors"))
    ends = dict(zip(stored.names, MLX_NAMES, strict=True))
    scales = stored.names[1]
    weights = {}
    for name, array in arrays.items():
        module, _, end = name.rpartition(".")
        if f"{module}.{scales}" in arrays:
            rows = arrays[f"{module}.{scales}"].shape[0]
            array = (array.view(mx.uint32) if end == "weight" else array).reshape(rows, -1)
        weights[f"{module}.{ends.get(end, end)}"] = array
    model = qwen3.Model(qwen3.ModelArgs.from_dict(stored.config))
    nn.quantize(
        model, stored.group, BITS, class_predicate=lambda path, _: f"{path}.scales" in weights
    )
    model.load_weights(list(model.sanitize(weights).items()))
    return model


def tokens(tokenizer: Any, prompts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids [n, length], and which of them are not padding, through the tokenizer's chat template."""
    texts = chats(tokenizer, prompts)
    batch = tokenizer(texts, padding="max_length", truncation=True, max_length=length)
    return np.array(batch["input_ids"]), np.array(batch["attention_mask"], bool)


def hidden_states(model: Any, ids: np.ndarray, real: np.ndarray, dtype: mx.Dtype) -> np.ndarray:
    """ids, real: [n, length] -> [n, length, 3 * width] float32.

    A token sees the real tokens up to itself; padding, too, sees the real ones.
    """
    length = ids.shape[1]
    visible = np.tril(np.ones((length, length), bool)) & real[:, None, :]
    mask = mx.array(visible[:, None])
    h = model.embed_tokens(mx.array(ids)).astype(dtype)
    states = []
    for i, layer in enumerate(model.layers, 1):
        h = layer(h, mask, None)
        if i in READ_LAYERS:
            states.append(h)
        mx.eval(h)
    return np.array(mx.concatenate(states, axis=-1).astype(mx.float32))
