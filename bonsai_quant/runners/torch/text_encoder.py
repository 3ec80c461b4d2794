"""The text encoders of deployments, in torch: 4 bits of MLX or sdnq, or HQQ's by hqq itself."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import TYPE_CHECKING

from bonsai_quant.core.errors import BadInput, Unsupported
from bonsai_quant.core.requirements import HQQ, require
from bonsai_quant.runners.four_bits import four_bits
from bonsai_quant.runners.text import loading
from bonsai_quant.sources.components import NEEDED_LAYERS
from bonsai_quant.storage.strict_json import read_json

if TYPE_CHECKING:
    import torch
    from torch import nn

HQQ_FOLDER = "text_encoder-hqq-4bit"


def load_quantized(folder: Path, dtype: torch.dtype, device: torch.device) -> nn.Module | None:
    """A text encoder in 4 bits, computing in `dtype`; None for one that is not in codes."""
    if folder.name == HQQ_FOLDER:
        return _by_hqq(folder, dtype, device)
    stored = four_bits(folder)
    if stored is None:
        return None
    from .affine4 import load_four_bit

    with loading("transformers", folder):
        return load_four_bit(folder, stored, dtype).to(device)


def _by_hqq(folder: Path, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """hqq reads its file as torch reads plain tensors, which runs nothing that stands in it."""
    require(HQQ, "gemlite")
    if not (folder / "qmodel.pt").is_file():
        raise BadInput("has no qmodel.pt", where=str(folder), hint="fetch the pack again")
    config = read_json(folder / "config.json")
    if not isinstance(config, dict) or config.get("architectures") != ["Qwen3ForCausalLM"]:
        raise Unsupported("is no Qwen3 text encoder", where=str(folder / "config.json"))
    from hqq.models.hf.base import AutoHQQHFModel

    quiet = io.StringIO()
    with (
        loading("hqq", folder),
        contextlib.redirect_stdout(quiet),
        contextlib.redirect_stderr(quiet),
    ):
        model = AutoHQQHFModel.from_quantized(
            str(folder.absolute()), compute_dtype=dtype, device=str(device)
        ).model
    model.layers = model.layers[:NEEDED_LAYERS]
    return model.eval()
