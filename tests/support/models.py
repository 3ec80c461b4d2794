"""Small FLUX.2-shaped checkpoints for tests, in both layouts, made with numpy alone."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from bonsai_quant.core.schema import MODES
from bonsai_quant.packs.formats import FORMATS as ROWS
from bonsai_quant.sources.families import flux2

FORMATS = {m: tuple(n for n, row in ROWS.items() if m in row.modes) for m in MODES}
"""What can hold a pack of each mode."""
TINY = ((1, 2), {"h": 128, "i": 64, "o": 64, "j": 128, "t": 64, "d": 128, "m": 384})
SMALL = ((2, 3), {"h": 256, "i": 128, "o": 128, "j": 384, "t": 256, "d": 128, "m": 768})


def tensors(model=TINY, *, seed=0, dtype=ml_dtypes.bfloat16, spread=0.02) -> dict[str, np.ndarray]:
    """Diffusers names -> weights, in name order."""
    rng = np.random.default_rng(seed)
    specs, _ = flux2.dense_specs(*model)
    made = {}
    for spec in sorted(specs, key=lambda s: s.name):
        centre = 1.0 if len(spec.shape) == 1 else 0.0
        made[spec.name] = (centre + spread * rng.standard_normal(spec.shape)).astype(dtype)
    return made


def config(model=TINY) -> dict:
    return flux2.dense_specs(*model)[1]


def save_folder(folder: Path, weights: dict[str, np.ndarray], model=TINY, *, shards=1) -> Path:
    """A transformer folder in diffusers' layout, in one file or in shards with an index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(model)))
    if shards == 1:
        save_file(weights, folder / "diffusion_pytorch_model.safetensors", {"format": "pt"})
        return folder
    names, where = sorted(weights), {}
    for k in range(shards):
        file = f"diffusion_pytorch_model-{k + 1:05}-of-{shards:05}.safetensors"
        part = {n: weights[n] for n in names[k::shards]}
        save_file(part, folder / file, {"format": "pt"})
        where |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": sum(w.nbytes for w in weights.values())},
             "weight_map": where}  # fmt: skip
    name = "diffusion_pytorch_model.safetensors.index.json"
    (folder / name).write_text(json.dumps(index))
    return folder


def to_original(weights: dict[str, np.ndarray], model=TINY) -> dict[str, np.ndarray]:
    """The same model under its original names: fused qkv, (shift, scale) in the last norm."""
    fused: dict[str, dict[str, np.ndarray]] = {}
    for row in flux2._rows(model[0], False):
        fused.setdefault(row.original, {})[row.part] = weights[row.name]
    made = {}
    for name, parts in fused.items():
        if flux2.SWAP in parts:
            scale, shift = np.split(parts[flux2.SWAP], 2)
            made[name] = np.concatenate([shift, scale])
        else:
            made[name] = np.concatenate([parts[k] for k in sorted(parts)])
    return made


def save_original(path: Path, weights: dict[str, np.ndarray], model=TINY) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(to_original(weights, model), path, {"format": "pt"})
    return path
