"""A text encoder in affine 4 bits, MLX's or sdnq's, run by transformers' own Qwen3 in torch.

Linears are decoded to float32, some rows at a time; MLX and sdnq multiply by the same numbers.
Embeddings are decoded in bfloat16, product and sum rounded each, as MLX decodes them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from bonsai_quant.core.errors import BadInput
from bonsai_quant.core.schema import StoredTensor
from bonsai_quant.quantization.affine4 import decode
from bonsai_quant.runners.four_bits import BITS, PER_WORD, FourBits
from bonsai_quant.sources.components import NEEDED_LAYERS
from bonsai_quant.storage import fs
from bonsai_quant.storage.containers.safetensors import read_header
from bonsai_quant.storage.tensors import read

from .packed_linear import KeptEmbedding, KeptLinear, RowsLinear

if TYPE_CHECKING:
    from transformers import Qwen3Model


class FourBitLinear(RowsLinear):
    """words: [out, in / 8] int32.  scales, biases: [out, groups] bfloat16."""

    def __init__(self, words: torch.Tensor, scales: torch.Tensor, biases: torch.Tensor) -> None:
        super().__init__(len(words), words.shape[1] * PER_WORD)
        self.register_buffer("words", words)
        self.register_buffer("scales", scales)
        self.register_buffer("biases", biases)

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """code * s + b in float32."""
        words, scales, biases = (a[start:stop] for a in (self.words, self.scales, self.biases))
        if words.device.type != "cpu":
            return _affine(words, scales.float(), biases.float())
        exact = (a.float().numpy() for a in (scales, biases))
        return torch.from_numpy(decode(words.numpy().view(np.uint32), *exact))


class FourBitEmbedding(nn.Module):  # type: ignore[misc]
    """The same for an embedding, which gives `dtype`."""

    def __init__(self, parts: tuple[torch.Tensor, ...], dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        for name, part in zip(("words", "scales", "biases"), parts, strict=True):
            self.register_buffer(name, part)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """ids [...] -> [..., width]."""
        scales, biases = (a[ids].bfloat16() for a in (self.scales, self.biases))
        return _affine(self.words[ids], scales, biases).to(self.dtype)


def _affine(words: torch.Tensor, scales: torch.Tensor, biases: torch.Tensor) -> torch.Tensor:
    """words [..., in / 8], scales and biases [..., groups] -> [..., in] in the dtype of scales."""
    shifts = torch.arange(0, 32, BITS, device=words.device, dtype=torch.int32)
    codes = (words[..., None] >> shifts) & (2**BITS - 1)
    codes = codes.reshape(*scales.shape, -1).to(scales.dtype)
    return (codes * scales[..., None] + biases[..., None]).flatten(-2)


def load_four_bit(folder: Path, stored: FourBits, dtype: torch.dtype) -> Qwen3Model:
    """The model of a folder as far as it is read, with norms and results in `dtype`."""
    from transformers import Qwen3Config, Qwen3Model
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

    config = Qwen3Config.from_dict(stored.config)
    # Layers after the last that is read are left out; one more stays, for the last is normed.
    config.num_hidden_layers = min(config.num_hidden_layers, NEEDED_LAYERS)
    config.layer_types = (config.layer_types or [])[: config.num_hidden_layers] or None
    with torch.device("meta"):
        model = Qwen3Model(config)
    model.rotary_emb = Qwen3RotaryEmbedding(config)
    _fill(model, folder / "model.safetensors", stored.names, dtype)
    return model.eval().requires_grad_(False)


def _fill(model: Any, path: Path, ends: tuple[str, str, str], dtype: torch.dtype) -> None:
    """Put every stored tensor in its place; refuse a file that lacks one."""
    stored = {t.spec.name: t for t in read_header(path).tensors}
    fd, _ = fs.open_regular(path)
    try:
        for name, module in list(model.named_modules()):
            full = f"model.{name}"
            if not hasattr(module, "weight"):
                continue
            names = ends if f"{full}.{ends[1]}" in stored else ("weight",)
            if missing := [e for e in names if f"{full}.{e}" not in stored]:
                raise BadInput(f"lacks {full}.{missing[0]}", where=str(path))
            parts = tuple(_read(stored[f"{full}.{e}"], fd) for e in names)
            _place(model, name, module, parts, dtype)
    finally:
        os.close(fd)


def _place(
    model: Any, name: str, module: Any, parts: tuple[torch.Tensor, ...], dtype: torch.dtype
) -> None:
    out, n = module.weight.shape if module.weight.ndim == 2 else (1, module.weight.numel())
    bits = parts[0].numel() * parts[0].element_size() * 8
    if bits != out * n * (BITS if len(parts) == 3 else parts[0].element_size() * 8):
        raise BadInput(f"has another {name} than its config calls for", hint="fetch the pack again")
    if len(parts) == 1:
        _place_whole(model, name, module, parts[0], dtype)
        return
    # sdnq's codes are one row of bytes; in memory both are the same words.
    words = parts[0].reshape(out, -1).view(torch.int32)
    scales, biases = (p.reshape(out, -1) for p in parts[1:])
    if isinstance(module, nn.Embedding):
        model.set_submodule(name, FourBitEmbedding((words, scales, biases), dtype))
    else:
        model.set_submodule(name, FourBitLinear(words, scales, biases))


def _place_whole(
    model: Any, name: str, module: Any, weight: torch.Tensor, dtype: torch.dtype
) -> None:
    """A weight without codes; one of 16 bits is made float32 some rows at a time."""
    small = dtype == torch.float32 and weight.element_size() == 2 and weight.ndim == 2
    if small and isinstance(module, nn.Embedding):
        model.set_submodule(name, KeptEmbedding(weight))
    elif small:
        model.set_submodule(name, KeptLinear(weight))
    else:
        module.weight = nn.Parameter(weight.to(dtype), requires_grad=False)


def _read(stored: StoredTensor, fd: int) -> torch.Tensor:
    array = read(stored, fd)
    if stored.spec.dtype == "BF16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array.view(np.int32) if stored.spec.dtype == "U32" else array)
