"""A `comfyui-packed` file: what is in it, refused unless it is what it says."""

from __future__ import annotations

import json

import torch
from safetensors import SafetensorError, safe_open

from .decode import GROUP, bits_of

FORMAT, VERSION = "comfyui-packed", 1
SCALE = "_scale"
"""What the name of a layer's scales has after that of its codes."""


class PackError(RuntimeError):
    """A file that is no such pack; the message says what to do."""


def read(path: str) -> dict[str, torch.Tensor]:
    """Every tensor of the file, by its name. Raises PackError for any other file."""
    try:
        with safe_open(path, framework="pt") as file:
            _check_metadata(file.metadata() or {}, path)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as e:
        raise PackError(f"{path}: cannot be read: {e}") from e
    for name in tensors:
        if name.endswith(SCALE):
            _check_layer(name.removesuffix(SCALE), tensors, path)
    return tensors


def _check_metadata(metadata: dict[str, str], path: str) -> None:
    try:
        about = json.loads(metadata["bonsai_quant"])
        known = about["format"] == FORMAT
    except (KeyError, TypeError, ValueError):
        known = False
    if not known:
        raise PackError(
            f"{path}: is not in the format {FORMAT}. Use the node Load Diffusion Model for a dense "
            f"file; make a packed one with `bonsai-quant export PACK -f {FORMAT} -o OUT`"
        )
    if about.get("format_version") != VERSION or about.get("group_size") != GROUP:
        raise PackError(
            f"{path}: has version {about.get('format_version')} and groups of "
            f"{about.get('group_size')}; this node reads version {VERSION} and groups of {GROUP}. "
            "Update the node"
        )


def _check_layer(name: str, tensors: dict[str, torch.Tensor], path: str) -> None:
    """Codes and scales of one layer, by shape and by value."""
    scales = tensors[name + SCALE]
    codes = tensors.get(name, torch.empty(0))
    if codes.dtype != torch.uint8 or not scales.is_floating_point():
        problem = f"is {codes.dtype} with scales of {scales.dtype}"
    elif not (bits := bits_of(codes, scales)):
        problem = f"has codes {list(codes.shape)} and scales {list(scales.shape)}"
    elif bits == 2 and bool((codes & codes >> 1 & 0x55).any()):
        problem = "has the code 3, which no ternary layer has"
    elif not bool(((scales > 0) & torch.isfinite(scales)).all()):
        problem = "has a scale that is no positive number"
    else:
        return
    raise PackError(f"{path}: tensor {name}: {problem}. The file is damaged: make it again")
