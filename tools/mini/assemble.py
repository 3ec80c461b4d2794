"""Put the trained parts together: a pipeline folder that diffusers loads, in 16 bits."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
)
from transformers import Qwen3ForCausalLM

from .encoder import tokenizer
from .sizes import Size
from .validation import SCHEDULER


def train(size: Size, out: Path, seed: int) -> None:
    """Write OUT/pipeline. Nothing is trained here; every part is rounded to bf16 once."""
    kind = torch.bfloat16
    pipeline = Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler.from_config(SCHEDULER),
        vae=AutoencoderKLFlux2.from_pretrained(out / "vae", torch_dtype=kind),
        text_encoder=Qwen3ForCausalLM.from_pretrained(out / "text_encoder", dtype=kind),
        tokenizer=tokenizer(size.world),
        transformer=Flux2Transformer2DModel.from_pretrained(
            out / "distill" / "transformer", torch_dtype=kind
        ),
        is_distilled=True,
    )
    folder = out / "pipeline"
    pipeline.save_pretrained(folder)
    # Where no dtype is asked for, diffusers computes in float32 and transformers in what its config
    # names: both must be the same.
    _edit(folder / "text_encoder" / "config.json", dtype="float32")
    _edit(folder / "transformer" / "config.json")
    _edit(folder / "vae" / "config.json")
    # The name that transformers 4 knows as well.
    _edit(folder / "model_index.json", tokenizer=["transformers", "PreTrainedTokenizerFast"])
    _edit(folder / "tokenizer" / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    settings = {
        "world": size.world.name,
        "height": size.world.pixels,
        "width": size.world.pixels,
        "num_inference_steps": 4,
        "guidance_scale": 1.0,
        "max_sequence_length": size.words,
    }
    (folder / "benchmark.json").write_text(json.dumps(settings, indent=2) + "\n")


def _edit(path: Path, **values: object) -> None:
    """Set fields of a JSON file, and take out where its part was loaded from."""
    fields = {k: v for k, v in json.loads(path.read_text()).items() if k != "_name_or_path"}
    path.write_text(json.dumps(fields | values, indent=2) + "\n")
