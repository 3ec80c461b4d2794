"""Containers of tensors: safetensors, GGUF, torch zip; strict readers, deterministic writers."""
