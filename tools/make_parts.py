"""Add the other parts of FLUX.2 Klein 4B, in their real shapes, to a folder with a transformer.

    python tools/make_parts.py FOLDER

Text encoder: Qwen3-4B, synthetic weights in bf16, in shards, 8.0 GB, written tensor by tensor. VAE:
diffusers' own with random weights, 168 MB. Scheduler: Klein's. Tokenizer: mini-klein's small one.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import click
import torch

from bonsai_quant.core.schema import TensorSpec
from bonsai_quant.sources.components.text_encoder import shapes
from bonsai_quant.sources.shipped import DATA
from bonsai_quant.storage.containers.safetensors import build_header

if __package__:
    from .synthetic_weights import draw_tensor
else:  # started as a file: its own folder is where modules are looked for
    from synthetic_weights import draw_tensor

QWEN3_4B = {
    "vocab_size": 151936,
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000,
    "tie_word_embeddings": True,
}
SHARD_BYTES = 5_000_000_000
"""The largest shard, as the real one's."""


def add_parts(root: Path, seed: int = 0) -> None:
    """Write text_encoder/, vae/, scheduler/ and tokenizer/, and the index that names all."""
    write_text_encoder(root / "text_encoder", seed)
    _write_by_diffusers(root, seed)
    shutil.copytree(DATA / "mini-klein/tokenizer", root / "tokenizer")
    index = json.loads((DATA / "mini-klein/model_index.json").read_text())
    (root / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def write_text_encoder(folder: Path, seed: int) -> None:
    """Qwen3-4B: shards with an index, and its config."""
    from transformers import Qwen3Config

    config = Qwen3Config(**QWEN3_4B, dtype="bfloat16", architectures=["Qwen3ForCausalLM"])
    config.save_pretrained(folder)
    specs = [TensorSpec(n, "BF16", s) for n, s in sorted(shapes(QWEN3_4B).items())]
    shards: list[list[TensorSpec]] = [[]]
    for spec in specs:
        if sum(s.nbytes for s in shards[-1]) + spec.nbytes > SHARD_BYTES:
            shards.append([])
        shards[-1].append(spec)
    where = {}
    for k, shard in enumerate(shards):
        name = f"model-{k + 1:05}-of-{len(shards):05}.safetensors"
        _write_shard(folder / name, shard, seed)
        where |= {s.name: name for s in shard}
    total = {"total_size": sum(s.nbytes for s in specs)}
    text = json.dumps({"metadata": total, "weight_map": where}, indent=2)
    (folder / "model.safetensors.index.json").write_text(text + "\n")


def _write_shard(path: Path, specs: list[TensorSpec], seed: int) -> None:
    header, _ = build_header(specs, {"format": "pt"})
    with path.open("wb") as file:
        file.write(header)
        for spec in specs:
            tensor = draw_tensor(spec.name, spec.shape, torch.bfloat16, seed)
            file.write(tensor.view(torch.int16).numpy().data)


def _write_by_diffusers(root: Path, seed: int) -> None:
    from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler

    torch.manual_seed(seed)
    AutoencoderKLFlux2().to(torch.bfloat16).save_pretrained(root / "vae")
    FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True).save_pretrained(
        root / "scheduler"
    )


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(folder: Path) -> None:
    """Add the other parts to FOLDER, a pipeline's root with a transformer alone."""
    if (folder / "text_encoder").exists():
        raise click.ClickException(f"{folder} has a text encoder")
    add_parts(folder)


if __name__ == "__main__":
    main()
