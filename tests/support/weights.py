"""Weights by their layers, as float64: of a source's folder, and of a pack as it decodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from bonsai_quant.packs.read import open_one
from bonsai_quant.quantization import dequantize


def of_source(pipeline: Path) -> dict[str, np.ndarray]:
    """Layer -> [out, in] float64 of a pipeline's transformer."""
    path = pipeline / "transformer/diffusion_pytorch_model.safetensors"
    tensors = {n.removesuffix(".weight"): t for n, t in load_file(path).items()}
    return {n: t.double().numpy() for n, t in tensors.items()}


def decoded(folder: Path) -> dict[str, np.ndarray]:
    """Layer -> [out, in] float64 of a pack's codes and scales."""
    pack = open_one(folder)
    layers = {t.linear: pack.layer(t) for t in pack.info.packed}
    return {n: dequantize.weights(layer).astype(np.float64) for n, layer in layers.items()}
