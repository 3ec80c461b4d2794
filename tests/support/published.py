"""Packs as others publish them, made without this project's writers: torch, mlx and safetensors.

Codes and scales are simple arithmetic: s is the mean magnitude of a group in bf16. Kept tensors are
moved a little, as training does, and some of their values are finer than fp16.
"""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import torch
from safetensors.torch import load_file, save_file

LAYOUTS = ("mlx", "gemlite", "unpacked")
EXTRA = {"enable_time_sign_embed": False, "musubi_block_swap_device": "cpu",
         "musubi_blocks_to_swap": 0}  # fmt: skip
STUB = {"_class_name": "Flux2KleinPipeline", "_diffusers_version": "0.37.0.dev0"}


@dataclass(frozen=True)
class Layer:
    """codes: [out, in] uint8.  s: [out, in / 128] float32, on bf16's grid.  dense: [out, in]."""

    codes: torch.Tensor
    s: torch.Tensor
    dense: torch.Tensor


@dataclass(frozen=True)
class Release:
    """A trained model. packed: by linear's name.  kept: bf16 by tensor's name."""

    mode: str
    packed: dict[str, Layer]
    kept: dict[str, torch.Tensor]
    config: dict

    @property
    def bits(self) -> int:
        return 2 if self.mode == "ternary" else 1


def release(transformer: Path, mode: str) -> Release:
    """Of a transformer's folder in diffusers' layout."""
    dense = load_file(transformer / "diffusion_pytorch_model.safetensors")
    packed, kept = {}, {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for name, w in dense.items():
            if "transformer_blocks." in name and w.ndim == 2:
                packed[name.removesuffix(".weight")] = quantize(w.float(), mode)
            else:
                kept[name] = (w.float() * (1 + 0.01 * torch.randn(w.shape))).bfloat16()
    kept["proj_out.weight"][0, :3] = torch.tensor([1.1e-7, -3e-9, 1e-12])
    return Release(mode, packed, kept, json.loads((transformer / "config.json").read_text()))


def quantize(w: torch.Tensor, mode: str) -> Layer:
    groups = w.reshape(len(w), -1, 128)
    s = groups.abs().mean(-1, keepdim=True).bfloat16().float()
    if mode == "ternary":
        t = (groups / s).round().clamp(-1, 1)  # leaves -0.0, as training code does
        t[0, 0] = 0.0
    else:
        t = torch.where(groups > 0, 1.0, -1.0)
    codes = (t + 1 if mode == "ternary" else (t + 1) / 2).to(torch.uint8)
    return Layer(codes.reshape(w.shape), s.squeeze(-1), (t * s).reshape(w.shape).bfloat16())


def publish(folder: Path, layout: str, made: Release, *, manifest: bool = True) -> Path:
    """One repo's folder."""
    weights = {"mlx": save_mlx, "gemlite": save_gemlite, "unpacked": save_unpacked}[layout](
        folder, made
    )
    (weights.parent / "config.json").write_text(json.dumps(made.config | EXTRA, indent=2))
    (folder / "LICENSE").write_text("Apache License\n")
    (folder / "NOTICE.md").write_text("# Notice\n")
    (folder / ".gitattributes").write_text("*.pt filter=lfs diff=lfs merge=lfs -text\n")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Card\n")
    if manifest:
        write_manifest(folder, {"model_version": f"{made.mode} g128 (bf16 master)"})
    return folder


def write_manifest(folder: Path, about: dict) -> None:
    """Another program's, with the keys that clients look for."""
    files = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json"):
        data, name = path.read_bytes(), path.relative_to(folder).as_posix()
        digest = hashlib.sha256(data).hexdigest()
        files.append({"remote_path": name, "path": f"/build/{name}", "size": len(data),
                      "sha256": digest, "role": "payload"})  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(about | {"files": files}, indent=2))


def in_words(codes: torch.Tensor, bits: int, width: int) -> torch.Tensor:
    """Codes along the last axis, least significant bits first, in words of `width` bits: int64."""
    lanes = codes.to(torch.int64).reshape(len(codes), -1, width // bits)
    return (lanes << bits * torch.arange(width // bits)).sum(-1)


def save_mlx(folder: Path, made: Release) -> Path:
    path = folder / "transformer-packed-mflux/diffusion_pytorch_model.safetensors"
    path.parent.mkdir(parents=True)
    arrays = {n: mx.array(w.float().numpy()).astype(mx.bfloat16) for n, w in made.kept.items()}
    for name, layer in made.packed.items():
        step = layer.s if made.bits == 2 else 2 * layer.s
        words = in_words(layer.codes, made.bits, 32).numpy()
        arrays[f"{name}.weight"] = mx.array(words).astype(mx.uint32)
        arrays[f"{name}.scales"] = mx.array(step.numpy()).astype(mx.bfloat16)
        arrays[f"{name}.biases"] = mx.array((-layer.s).numpy()).astype(mx.bfloat16)
    mx.save_safetensors(str(path), arrays, {"format": "mlx", "made_by": "somebody"})
    said = {"bits": made.bits, "format": "mlx-packed-affine", "group_size": 128,
            "skip_patterns": ["x_embedder"], "source_dtype": "bfloat16"}  # fmt: skip
    said |= {"solver": "ternary"} if made.mode == "ternary" else {}
    (path.parent / "quantization_config.json").write_text(json.dumps(said))
    (path.parent / "checkpoint_manifest.json").write_text('{"passthrough": []}')
    return path


def gemlite_state(made: Release, *, scales: torch.dtype = torch.float32, acc: int = 0) -> dict:
    """The flat dict. scales: their dtype.  acc: the accumulator's type in `metadata`."""
    state = {}
    for name, layer in made.packed.items():
        step = layer.s if made.bits == 2 else 2 * layer.s
        half = int(scales == torch.float16)
        about = [0, made.bits, 128, 2**made.bits - 1, 8 // made.bits, 1, 1, acc, half, 0, 4, 1]
        state |= {
            f"{name}.W_q": in_words(layer.codes, made.bits, 8).to(torch.uint8).T.contiguous(),
            f"{name}.scales": step.T.contiguous().to(scales),
            f"{name}.zeros": (-layer.s).T.contiguous().to(scales),
            f"{name}.metadata": torch.tensor(about, dtype=torch.int32),
            f"{name}.orig_shape": torch.tensor(layer.codes.shape, dtype=torch.int32),
        }
    items = [*state.items(), *made.kept.items()]
    random.Random(0).shuffle(items)
    return dict(items)


def save_gemlite(folder: Path, made: Release) -> Path:
    path = folder / f"transformer-gemlite-int{made.bits}/state_dict.pt"
    path.parent.mkdir(parents=True)
    torch.save(gemlite_state(made, acc=1 if made.mode == "ternary" else 0), path)
    said = {"bits": made.bits, "group_size": 128, "packing_bitwidth": 8, "pack_seconds": 3.2,
            "quantized_count": len(made.packed), "skipped": ["x_embedder"]}  # fmt: skip
    (path.parent / "quantization_config.json").write_text(json.dumps(said))
    tuned = {"GEMV": {"(1, 128, 128, 128, 4, 102)": {"BLOCK_SIZE_N": 256, "num_warps": 1}}}
    (path.parent / "gemlite_autotune.json").write_text(json.dumps(tuned))
    (folder / "model_index.json").write_text(json.dumps(STUB, indent=2))
    return path


def save_unpacked(folder: Path, made: Release) -> Path:
    path = folder / "transformer/diffusion_pytorch_model.safetensors"
    path.parent.mkdir(parents=True)
    dense = {f"{n}.weight": layer.dense for n, layer in made.packed.items()}
    save_file(made.kept | dense, path, {"format": "pt"})
    return path


LAYER = "transformer_blocks.0.attn.to_q"
WEIGHTS = {
    "mlx": "transformer-packed-mflux/diffusion_pytorch_model.safetensors",
    "gemlite": "transformer-gemlite-int{bits}/state_dict.pt",
    "unpacked": "transformer/diffusion_pytorch_model.safetensors",
}


def weights_path(layout, model) -> str:
    return WEIGHTS[layout].format(bits=model.bits)


def failures(verdict):
    return [(c.level, c.detail) for c in verdict.checks if c.status == "failed"]
