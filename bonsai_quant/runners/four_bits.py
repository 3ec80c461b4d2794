"""How a text encoder's folder stores 4-bit codes: as MLX does, as sdnq does, or not at all.

Packs for our plug-in have sdnq's bytes, and say so in words of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bonsai_quant.core.errors import BadInput, Unsupported
from bonsai_quant.packs.formats.diffusers import METHOD
from bonsai_quant.storage.strict_json import read_json

BITS, PER_WORD = 4, 8
GROUPS = (32, 64, 128)
"""Sizes that MLX's products know."""
UNREAD = ("use_svd", "use_hadamard", "use_codebook", "scale_dtype", "zero_point_dtype",
          "modules_dtype_dict", "modules_quant_config")  # fmt: skip
"""Settings of sdnq that change what a weight is, and that no pack of this program has."""


@dataclass(frozen=True, slots=True)
class FourBits:
    """Weight = code * scale + bias, in groups of `group` inputs.

    names: of codes, scales and biases, after a module's name.  config: the model's, without them.
    """

    names: tuple[str, str, str]
    group: int
    config: dict[str, Any]


MLX_NAMES, SDNQ_NAMES = ("weight", "scales", "biases"), ("weight", "scale", "zero_point")


def four_bits(folder: Path) -> FourBits | None:
    """How the weights of a folder are stored; None where they are in 16 bits.

    Raises Unsupported for any other quantization than those of this program's packs.
    """
    path = folder / "config.json"
    config = read_json(path)
    if not isinstance(config, dict):
        raise BadInput("is not an object", where=str(path), hint="fetch the pack again")
    said = config.get("quantization", config.get("quantization_config"))
    if said is None:
        return None
    found = _read(said) if isinstance(said, dict) else None
    if found is None:
        raise Unsupported(
            f"is quantized as {str(said)[:80]}; MLX's {BITS} bits are read, and sdnq's uint4",
            where=str(path),
            hint="pass --pipeline FOLDER with the original, or --backend mlx",
        )
    names, group = found
    return FourBits(names, group, {k: v for k, v in config.items() if "quantization" not in k})


def _read(said: dict[str, Any]) -> tuple[tuple[str, str, str], int] | None:
    group = said.get("group_size")
    if not isinstance(group, int) or group not in GROUPS:
        return None
    method = said.get("quant_method")
    if method in (None, METHOD):
        names = SDNQ_NAMES if method else MLX_NAMES
        return (names, group) if said.get("bits") == BITS else None
    if method != "sdnq":
        return None
    plain = said.get("weights_dtype") == "uint4" and not any(said.get(k) for k in UNREAD)
    return (SDNQ_NAMES, group) if plain else None
