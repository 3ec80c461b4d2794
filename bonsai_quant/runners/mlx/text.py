"""Qwen3 in MLX, by mlx-lm's own model, read at three layers as FLUX.2 Klein does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from bonsai_quant.runners.text import chats
from bonsai_quant.sources.components import READ_LAYERS


def load(folder: Path, dtype: mx.Dtype) -> Any:
    """The text encoder of a folder: 16 bits, or quantized as mlx-lm writes it."""
    from mlx_lm.models import qwen3
    from mlx_lm.utils import load_model

    # Whatever class or file the config names, this one is built.
    model, config = load_model(
        folder, lazy=True, get_model_classes=lambda config: (qwen3.Model, qwen3.ModelArgs)
    )
    model.model.layers = model.model.layers[: READ_LAYERS[-1]]
    if "quantization" not in config:
        model.set_dtype(dtype)
    return model.model


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
