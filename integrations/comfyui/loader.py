"""A packed file as a model that ComfyUI's other nodes take."""

from __future__ import annotations

import inspect
from typing import Any

import comfy.sd
import torch

from .layers import Operations, PackedLinear
from .pack_file import SCALE, PackError, read
from .patcher import PackedPatcher


def load_model(path: str, **_: Any) -> PackedPatcher:
    """The model in a `comfyui-packed` file; kept tensors stay in bf16.

    Raises PackError for another file, or one that ComfyUI knows no model for.
    """
    tensors = read(path)
    scaled = {n.removesuffix(SCALE) for n in tensors if n.endswith(SCALE)}
    options = {"custom_operations": Operations, "dtype": torch.bfloat16}
    # In dynamic loading ComfyUI patches a weight where it casts it, which packed layers do not do.
    make = comfy.sd.load_diffusion_model_state_dict
    static = {"disable_dynamic": True}
    known = inspect.signature(make).parameters.keys() >= static.keys()
    made = make(tensors, model_options=options, **(static if known else {}))
    if made is None:
        raise PackError(f"{path}: ComfyUI does not know this model. Update ComfyUI")
    _check_complete(made.model.diffusion_model, scaled, path)
    patcher = PackedPatcher(made.model, made.load_device, made.offload_device)
    patcher.cached_patcher_init = (load_model, (path,))
    return patcher


def _check_complete(model: torch.nn.Module, scaled: set[str], path: str) -> None:
    """Every layer has a weight, and every scale of the file found its layer."""
    layers = {f"{n}.weight": m for n, m in model.named_modules() if isinstance(m, PackedLinear)}
    empty = sorted(n for n, m in layers.items() if m.weight is None)
    lost = sorted(scaled - {n for n, m in layers.items() if m.is_packed})
    if empty or lost:
        what = f"lacks {empty[0]}" if empty else f"has {lost[0]}, for which there is no layer"
        raise PackError(f"{path}: {what}. The file is damaged, or ComfyUI is too old for it")
