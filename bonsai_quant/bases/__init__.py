"""Model families. A new one is a file here, with a `detect` function, and a line in FAMILIES."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import BadInput, Unsupported
from ..schema import StoredTensor
from . import flux2
from .model import Model

__all__ = ["FAMILIES", "Model", "detect"]

FAMILIES = {"flux2": flux2.detect}

FOREIGN: tuple[tuple[str, str, str], ...] = (
    (".lora_A.", "a LoRA", "merge it into the full checkpoint first"),
    (".lora_down.", "a LoRA", "merge it into the full checkpoint first"),
    (".qweight", "already quantized", "start from the full-precision checkpoint"),
    (".W_q", "already quantized", "start from the full-precision checkpoint"),
    (".scales", "already quantized", "start from the full-precision checkpoint"),
    (".codes", "already quantized", "start from the full-precision checkpoint"),
    (".weight_scale", "already quantized", "start from the full-precision checkpoint"),
    (".absmax", "already quantized", "start from the full-precision checkpoint"),
    (".quant_state", "already quantized", "start from the full-precision checkpoint"),
)
"""Marks of checkpoints that hold something other than full weights."""

BUNDLED = ("text_encoders.", "vae.", "conditioner.", "first_stage_model.")


def detect(tensors: Mapping[str, StoredTensor], place: str) -> Model:
    """The family, size and layout of a checkpoint, from names and shapes alone.

    place: the file or folder, for messages. Raises Unsupported (4) when no family has these names.
    """
    if not tensors:
        raise BadInput("holds no tensors", where=place)
    for mark, what, hint in FOREIGN:
        if name := next((n for n in tensors if mark in n), ""):
            raise Unsupported(f"is {what}", where=(place, f"tensor {name}"), hint=hint)
    if bundled := [n for n in tensors if n.startswith(BUNDLED)]:
        raise Unsupported(
            f"bundles {len(bundled)} tensors of other parts, such as {bundled[0]}",
            where=place,
            hint="convert the transformer's own file",
        )
    for family in FAMILIES.values():
        if model := family(tensors, place):
            return model
    some = ", ".join(sorted(tensors)[:3])
    raise Unsupported(
        f"is none of the known families ({', '.join(FAMILIES)}); it holds {some}, ...",
        where=place,
        hint="see `bonsai-quant inspect` for what is in it",
    )
