"""Model families. A new one is a file here, which makes its `Family`, and a row in FAMILIES."""

from __future__ import annotations

from collections.abc import Mapping

from bonsai_quant.core.errors import BadInput, Unsupported
from bonsai_quant.core.schema import StoredTensor

from . import flux2
from .model import Family, Model, Rows

__all__ = ["FAMILIES", "Family", "Model", "Rows", "detect", "original_rows"]

_ROWS = (flux2.FAMILY,)
FAMILIES = {family.name: family for family in _ROWS}

FOREIGN: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "a LoRA",
        "give the full checkpoint, and this file as --lora",
        (".lora_A.", ".lora_B.", ".lora_down.", ".lora_up.", ".hada_w1", ".lokr_w1"),
    ),
    (
        "already quantized",
        "start from the full-precision checkpoint",
        (".qweight", ".W_q", ".scales", ".codes", ".weight_scale", ".scale_weight", "scaled_fp8")
        + (".weight_packed", ".comfy_quant", ".absmax", ".quant_state", ".SCB"),
    ),
)
"""What a checkpoint is that holds something other than full weights, what to do, and its marks."""

BUNDLED = ("text_encoders.", "vae.", "conditioner.", "first_stage_model.")


def detect(tensors: Mapping[str, StoredTensor], place: str) -> Model:
    """The family, size and layout of a checkpoint, from names and shapes alone.

    place: the file or folder, for messages. Raises Unsupported (4) when no family has these names.
    """
    if not tensors:
        raise BadInput("holds no tensors", where=place, hint="fetch the checkpoint again")
    for what, hint, marks in FOREIGN:
        if name := next((n for n in tensors if any(m in n for m in marks)), ""):
            raise Unsupported(f"is {what}", where=(place, f"tensor {name}"), hint=hint)
    if bundled := [n for n in tensors if n.startswith(BUNDLED)]:
        raise Unsupported(
            f"bundles {len(bundled)} tensors of other parts, such as {bundled[0]}",
            where=place,
            hint="convert the transformer's own file",
        )
    for family in FAMILIES.values():
        if model := family.detect(tensors, place):
            return model
    some = ", ".join(sorted(tensors)[:3])
    raise Unsupported(
        f"is none of the known families ({', '.join(FAMILIES)}); it holds {some}, ...",
        where=place,
        hint="see `bonsai-quant inspect` for what is in it",
    )


def original_rows(name: str, n: int) -> tuple[Rows, ...]:
    """Where the original layout holds a tensor of n rows, in the order of its rows there.

    name: diffusers name, with `.weight`. Raises Unsupported when no family has it.
    """
    for family in FAMILIES.values():
        if rows := family.original_rows(name, n):
            return rows
    raise Unsupported(
        "has no name in an original layout", where=(f"tensor {name}",), hint="use another format"
    )
