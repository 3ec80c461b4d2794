"""LoRA files for the small checkpoints of models.py, in the spellings of every trainer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from bonsai_quant.sources.families import flux2
from tests.support import models

RANK, ALPHA = 4, 2.0
FACTOR = ALPHA / RANK


class Pair(NamedTuple):
    """down: [r, in].  up: [out, r]. Small multiples of 1/16, so that float32 adds them exactly."""

    down: np.ndarray
    up: np.ndarray


Pairs = dict[str, Pair]
"""By diffusers name, without `.weight`."""


def pairs(model=models.TINY, *, seed=1, rank=RANK, only=lambda name: True) -> Pairs:
    """A pair for every linear; those that the original layout fuses have one `down`."""
    rng = np.random.default_rng(seed)
    downs, made = {}, {}
    for row in flux2._rows(model[0], False):
        shape = flux2._shape(row.shape, model[1])
        if len(shape) < 2:
            continue
        down = downs.setdefault(row.original, _small(rng, rank, shape[1]))
        if only(row.name):
            made[row.name.removesuffix(".weight")] = Pair(down, _small(rng, shape[0], rank))
    return made


def _small(rng, *shape):
    return (rng.integers(-3, 4, shape) / 16).astype(np.float32)


def in_blocks(name: str) -> bool:
    return name.startswith(("transformer_blocks", "single_transformer_blocks"))


def delta(pair: Pair, factor=FACTOR) -> np.ndarray:
    """What is added, exact: [out, in] float64."""
    return factor * (pair.up.astype(np.float64) @ pair.down.astype(np.float64))


def add(weights: dict[str, np.ndarray], given: Pairs, factor=FACTOR) -> dict[str, np.ndarray]:
    """The checkpoint merged in float32: what a trainer's own program would write."""
    merged = {n: w.astype(np.float32) for n, w in weights.items()}
    for name, pair in given.items():
        merged[f"{name}.weight"] = merged[f"{name}.weight"] + delta(pair, factor).astype(np.float32)
    return merged


def original(given: Pairs, model=models.TINY) -> Pairs:
    """The same under the original names: qkv fused, the halves of the last norm exchanged."""
    rows = list(flux2._rows(model[0], False))
    blank = {r.name: np.zeros((2, 1)) for r in rows}
    ups = models.to_original(blank | {f"{n}.weight": p.up for n, p in given.items()}, model)
    downs = {r.original: given[n].down for r in rows
             if (n := r.name.removesuffix(".weight")) in given}  # fmt: skip
    return {n.removesuffix(".weight"): Pair(downs[n], ups[n]) for n in downs}


def save(path: Path, tensors: dict[str, np.ndarray], metadata=None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {n: np.ascontiguousarray(t) for n, t in tensors.items()}
    save_file(tensors, path, {"format": "pt"} | (metadata or {}))
    return path


def spelled(given: Pairs, prefix: str, suffixes=("lora_A", "lora_B"), alpha=None, flat=False):
    tensors = {}
    for name, pair in given.items():
        full = prefix + (name.replace(".", "_") if flat else name)
        tensors |= {f"{full}.{s}.weight": f for s, f in zip(suffixes, pair, strict=True)}
        if alpha is not None:
            tensors[f"{full}.alpha"] = np.array(alpha, np.float32)
    return tensors


def _settings(prefix=""):
    said = {"r": RANK, "lora_alpha": ALPHA, "peft_type": "LORA", "target_modules": ["to_q"]}
    return json.dumps({f"{prefix}{k}": v for k, v in said.items()})


def _diffusers(path, given):
    metadata = {"lora_adapter_metadata": _settings("transformer.")}
    return save(path, spelled(given, "transformer."), metadata)


def _peft(path, given):
    path.parent.mkdir(parents=True, exist_ok=True)
    (path.parent / "adapter_config.json").write_text(_settings())
    return save(path, spelled(given, "base_model.model."))


DOWN_UP = ("lora_down", "lora_up")
STYLES = {
    "diffusers": _diffusers,
    "peft": _peft,
    "bare": lambda path, given: save(path, spelled(given, "", alpha=ALPHA)),
    "bfl": lambda path, given: save(
        path, spelled(original(given), "diffusion_model.", alpha=ALPHA)),
    "bfl-down-up": lambda path, given: save(
        path, spelled(original(given), "diffusion_model.", DOWN_UP, ALPHA)),
    "kohya": lambda path, given: save(
        path, spelled(original(given), "lora_unet_", DOWN_UP, ALPHA, flat=True)),
    "kohya-diffusers": lambda path, given: save(
        path, spelled(given, "lora_transformer_", DOWN_UP, ALPHA, flat=True)),
    "kohya-bf16": lambda path, given: save(path, {
        n: t.astype(ml_dtypes.bfloat16)
        for n, t in spelled(original(given), "lora_unet_", DOWN_UP, ALPHA, flat=True).items()}),
}  # fmt: skip
"""How a file of these pairs is written; all say alpha = 2 of rank 4."""


def ones(*shape, dtype=np.float32):
    return np.ones(shape, dtype)
