"""The components of a pipeline: their folders, index and classes."""

from __future__ import annotations

INDEX = "model_index.json"
CLASS = "Flux2KleinPipeline"
NEEDED = {
    "scheduler": ("scheduler_config.json",),
    "text_encoder": ("config.json",),
    "tokenizer": ("tokenizer.json", "tokenizer_config.json"),
    "vae": ("config.json", "diffusion_pytorch_model.safetensors"),
}
"""Files that clients of a pack open in each component."""
FOLDERS = tuple(sorted(NEEDED))
"""The components beside the transformer; each is a folder of this name in a pipeline."""

CLASSES = {
    "scheduler": ("FlowMatchEulerDiscreteScheduler",),
    "text_encoder": ("Qwen3ForCausalLM",),
    "tokenizer": ("Qwen2TokenizerFast", "Qwen2Tokenizer", "PreTrainedTokenizerFast",
                  "TokenizersBackend"),
    "transformer": ("Flux2Transformer2DModel",),
    "vae": ("AutoencoderKLFlux2",),
}  # fmt: skip
"""The components of a pipeline, and the classes that may hold each."""
PLACES = {
    "scheduler": ("scheduler",),
    "text_encoder": ("text_encoder", "text_encoder-mlx-4bit", "text_encoder-hqq-4bit"),
    "tokenizer": ("tokenizer", "text_encoder-hqq-4bit/tokenizer"),
    "transformer": ("transformer",),
    "vae": ("vae",),
}
"""Folders that may hold each: in a pipeline, or in a pack that is a complete deployment."""
READ_LAYERS = (9, 18, 27)
"""Hidden states of the text encoder that Klein's transformer reads; 0 is the embedding.

State n is what the n-th layer gives: layers 8, 17 and 26, counted from 0.
"""
NEEDED_LAYERS = READ_LAYERS[-1] + 1
"""Layers that a text encoder must have: one after the last that is read, for what the last one
gives is normed."""
