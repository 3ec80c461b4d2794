"""Make a FLUX.2 Klein shaped transformer checkpoint with synthetic, realistic weights.

    python tools/make_checkpoint.py OUT --size klein-4b [--pipeline]
    python tools/make_checkpoint.py OUT.safetensors --size small --layout original
    python tools/make_checkpoint.py OUT.safetensors --from FOLDER

Layout `diffusers` is a pipeline root, OUT/transformer/*, written by diffusers itself; `original`
is one file with Black Forest Labs' names. Either takes the memory of one model. --pipeline adds the
text encoder, VAE and scheduler of the real pipeline, and a small tokenizer: 8.2 GB. A tensor's
numbers depend only on (seed, its diffusers name, its shape), so both layouts hold the same model,
whatever the order, the shards or the threads. Every size has the 128 latent channels that ComfyUI
and stable-diffusion.cpp take for granted: `small` is for trying those.
"""

import json
import os
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import torch
from safetensors import safe_open
from safetensors.torch import save_file

if __package__:
    from .make_parts import add_parts
    from .synthetic_weights import draw_tensor
else:  # started as a file: its own folder is where modules are looked for
    from make_parts import add_parts
    from synthetic_weights import draw_tensor

DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}

# What all sizes share; the rest (patch, rope, eps) are diffusers' defaults.
KLEIN = {"in_channels": 128, "attention_head_dim": 128, "mlp_ratio": 3.0, "guidance_embeds": False}
SIZE_KEYS = ("num_layers", "num_single_layers", "num_attention_heads", "joint_attention_dim")
SIZES = {
    "klein-4b": (5, 20, 24, 7680),
    "klein-9b": (8, 24, 32, 12288),
    "wide": (1, 2, 24, 7680),  # as wide as klein-4b, with few blocks
    "small": (2, 4, 2, 384),
    "tiny": (1, 2, 1, 128),
}

# Original module -> the diffusers modules it holds, stacked by rows in this order.
TOP = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_guidance_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_guidance_embed.timestep_embedder.linear_2",
    "double_stream_modulation_img.lin": "double_stream_modulation_img.linear",
    "double_stream_modulation_txt.lin": "double_stream_modulation_txt.linear",
    "single_stream_modulation.lin": "single_stream_modulation.linear",
    "final_layer.adaLN_modulation.1": "norm_out.linear",  # and its halves change places
    "final_layer.linear": "proj_out",
}
DOUBLE = {
    "img_attn.qkv": "attn.to_q attn.to_k attn.to_v",
    "img_attn.norm.query_norm": "attn.norm_q",
    "img_attn.norm.key_norm": "attn.norm_k",
    "img_attn.proj": "attn.to_out.0",
    "img_mlp.0": "ff.linear_in",
    "img_mlp.2": "ff.linear_out",
    "txt_attn.qkv": "attn.add_q_proj attn.add_k_proj attn.add_v_proj",
    "txt_attn.norm.query_norm": "attn.norm_added_q",
    "txt_attn.norm.key_norm": "attn.norm_added_k",
    "txt_attn.proj": "attn.to_add_out",
    "txt_mlp.0": "ff_context.linear_in",
    "txt_mlp.2": "ff_context.linear_out",
}
SINGLE = {
    "linear1": "attn.to_qkv_mlp_proj",
    "linear2": "attn.to_out",
    "norm.query_norm": "attn.norm_q",
    "norm.key_norm": "attn.norm_k",
}
WORKERS = min(4, os.cpu_count() or 1)


def make(
    out: str | Path,
    size: str,
    *,
    layout: str = "diffusers",
    dtype: str = "bf16",
    shards: int | str | None = None,
    seed: int = 0,
) -> Path:
    """Make the model and return OUT: a pipeline root, or the one file of layout `original`.

    shards: a number of files, or the largest size of one, such as "2GB"; diffusers layout only.
    """
    if shards and layout == "original":
        raise click.UsageError("layout original is one file: shards are for layout diffusers")
    model = empty_model(size)
    tensors = draw_model(model, DTYPES[dtype], seed)
    if layout == "original":
        save_file(to_original(tensors), out, {"format": "pt"})
        return Path(out)
    return write_diffusers(Path(out), model, tensors, shards)


def empty_model(size: str) -> torch.nn.Module:
    """The diffusers model of a size: names and shapes, no storage."""
    from diffusers import Flux2Transformer2DModel

    with torch.device("meta"):
        return Flux2Transformer2DModel(**KLEIN, **dict(zip(SIZE_KEYS, SIZES[size], strict=True)))


def draw_model(model: torch.nn.Module, dtype: torch.dtype, seed: int) -> dict[str, torch.Tensor]:
    """All tensors of a model by diffusers name."""
    shapes = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    with ThreadPoolExecutor(WORKERS) as pool:  # numpy lets go of the GIL while it draws
        drawn = pool.map(lambda item: draw_tensor(*item, dtype, seed), shapes.items())
        return dict(zip(shapes, drawn, strict=True))


def write_diffusers(
    out: Path, model: torch.nn.Module, tensors: dict[str, torch.Tensor], shards: int | str | None
) -> Path:
    """Fill diffusers' own model, let it save itself under OUT/transformer, return OUT."""
    limit = shard_limit(tensors, shards) if isinstance(shards, int) else shards or "10GB"
    model.load_state_dict(tensors, assign=True)
    model.save_pretrained(out / "transformer", max_shard_size=limit)
    version = json.loads((out / "transformer/config.json").read_text())["_diffusers_version"]
    index = {"_class_name": "Flux2KleinPipeline", "_diffusers_version": version}
    index |= {"is_distilled": True, "transformer": ["diffusers", "Flux2Transformer2DModel"]}
    (out / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    return out


def shard_limit(tensors: dict[str, torch.Tensor], n_shards: int) -> int:
    """The least shard size in bytes, to 1 %, that makes diffusers write n_shards files."""
    sizes = [t.nbytes for t in tensors.values()]
    limit, n_files = max(sizes), len(sizes) + 1
    while n_files > n_shards:
        limit += limit // 100
        n_files, used = 1, 0
        for size in sizes:  # diffusers fills files in order
            n_files, used = (n_files, used + size) if used + size <= limit else (n_files + 1, size)
    if n_files != n_shards:
        raise click.UsageError(f"these tensors split into {n_files} files, not {n_shards}")
    return limit


def to_original(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The original's tensors: q, k, v fused; the last norm as (shift, scale)."""
    original = {}
    for key, parts in original_parts(tensors).items():
        pieces = [tensors[part] for part in parts]
        if "adaLN_modulation" in key:  # diffusers holds (scale, shift)
            pieces = pieces[0].chunk(2)[::-1]
        # cat copies, so only where needed: a mapped file is then renamed in little memory
        original[key] = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
    return original


def original_parts(names: Collection[str]) -> dict[str, list[str]]:
    """Original tensor name -> diffusers tensor names, for the tensors of one model."""
    modules = {old: [new] for old, new in TOP.items()}
    for kind, table in (("double_", DOUBLE), ("single_", SINGLE)):
        new = f"{kind}transformer_blocks".removeprefix("double_")
        for i in {name.split(".")[1] for name in names if name.startswith(f"{new}.")}:
            for key, parts in table.items():
                modules[f"{kind}blocks.{i}.{key}"] = [f"{new}.{i}.{p}" for p in parts.split()]
    left = set(names) ^ {f"{part}.weight" for parts in modules.values() for part in parts}
    if left:
        raise ValueError(f"{min(left)}: in this model or in the name table, not in both")
    ends = {True: ".scale", False: ".weight"}
    return {k + ends[k.endswith("_norm")]: [f"{p}.weight" for p in v] for k, v in modules.items()}


def read_folder(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a diffusers folder (a root, or its transformer), mapped, not read."""
    inner = folder / "transformer"
    tensors = {}
    for path in sorted((inner if inner.is_dir() else folder).glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return tensors


@click.command(context_settings={"show_default": True})
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--size", type=click.Choice(list(SIZES)), default="klein-4b")
@click.option("--layout", type=click.Choice(["diffusers", "original"]), default="diffusers")
@click.option("--dtype", type=click.Choice(list(DTYPES)), default="bf16")
@click.option("--shards", "--max-shard-size", help="A number of files, or a size such as 2GB.")
@click.option("--seed", default=0)
@click.option("--pipeline", is_flag=True, help="Add text encoder, VAE, scheduler, tokenizer.")
@click.option("--from", "folder", type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="Write this diffusers folder as one original file instead.")  # fmt: skip
def main(out: Path, size: str, layout: str, dtype: str, shards: str | None, seed: int,
         pipeline: bool, folder: Path | None) -> None:  # fmt: skip
    """Make a FLUX.2 Klein shaped transformer with synthetic weights in OUT."""
    if out.exists():
        raise click.ClickException(f"{out} exists; remove it or choose another OUT")
    if pipeline and (folder or layout == "original"):
        raise click.UsageError("--pipeline is for layout diffusers, a folder")
    limit = int(shards) if shards and shards.isdigit() else shards
    if folder:
        save_file(to_original(read_folder(folder)), out, {"format": "pt"})
    else:
        make(out, size, layout=layout, dtype=dtype, shards=limit, seed=seed)
    if pipeline:
        add_parts(out, seed)
    click.echo(out)


if __name__ == "__main__":
    main()
