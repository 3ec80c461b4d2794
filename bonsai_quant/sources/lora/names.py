"""What the tensors of a LoRA file are called: by diffusers and peft, by kohya, by BFL's layout.

transformer.transformer_blocks.0.attn.to_q.lora_A.weight          diffusers
base_model.model.transformer_blocks.0.attn.to_q.lora_A.weight     peft
diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight        original names
lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight, .alpha   kohya
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

Kind = Literal["down", "up", "alpha", "other"]

PREFIXES = (
    "",
    "transformer.",
    "base_model.model.",
    "diffusion_model.",
    "model.diffusion_model.",
)
FLAT_PREFIXES = ("lora_unet_", "lora_transformer_")
"""Before names with `_` for every `.`."""
PEFT_PREFIX = "base_model.model."
KINDS: dict[str, Kind] = {
    "lora_A.weight": "down",
    "lora_A.default.weight": "down",
    "lora_down.weight": "down",
    "lora_B.weight": "up",
    "lora_B.default.weight": "up",
    "lora_up.weight": "up",
    "alpha": "alpha",
}
OTHERS = {
    "DoRA": r"dora_scale|lora_magnitude_vector.*",
    "LoHa": r"hada_.*",
    "LoKr": r"lokr_.*",
    "OFT": r"oft_.*",
    "a convolution of LoCon": r"lora_mid\.weight",
    "a bias": r"(lora_.+\.)?bias|diff_b",
    "a full weight or difference": r"weight|diff",
}
"""What may stand in a module's place beside or instead of the two factors, and its name there."""


class Part(NamedTuple):
    """A tensor's name, taken apart. what: of the kind `other`, what that is."""

    module: str
    kind: Kind
    what: str = ""


def take_apart(name: str) -> Part:
    """The module that a tensor's name begins with, and what the rest says that the tensor is."""
    for suffix, kind in KINDS.items():
        if name.endswith(f".{suffix}"):
            return Part(name.removesuffix(f".{suffix}"), kind)
    for what, pattern in OTHERS.items():
        if match := re.search(rf"\.({pattern})$", name):
            return Part(name[: match.start()], "other", what)
    return Part(name, "other", "nothing known")


def spellings(linears: Iterable[str]) -> dict[str, str]:
    """Every name that a linear may have in a file -> its name in the base's table."""
    linear_of: dict[str, str] = {}
    for linear in linears:
        linear_of |= {f"{prefix}{linear}": linear for prefix in PREFIXES}
        linear_of |= {f"{prefix}{linear.replace('.', '_')}": linear for prefix in FLAT_PREFIXES}
    return linear_of
