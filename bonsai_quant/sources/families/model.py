"""What a family knows of a checkpoint: its size, its configuration, and how each tensor is held."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from bonsai_quant.core.errors import BadInput
from bonsai_quant.core.schema import Piece, StoredTensor


@dataclass(frozen=True, slots=True)
class ModelTensor:
    """A tensor under its diffusers name. packable: the base packs it unless a recipe keeps it."""

    name: str
    shape: tuple[int, ...]
    packable: bool
    rule: str
    pieces: tuple[Piece, ...]


class Share(NamedTuple):
    """Rows [start, stop) of a linear of some layout, which are rows from `at` of `tensor`."""

    tensor: str
    start: int
    stop: int
    at: int


class Rows(NamedTuple):
    """Rows [start, stop) of a tensor of the original layout, which are ours from row `at` on.

    height: how many rows that tensor has.
    """

    tensor: str
    height: int
    start: int
    stop: int
    at: int


@dataclass(frozen=True, slots=True)
class Model:
    """A recognised checkpoint. `config` is diffusers' config.json; `reason` is for the log.

    evidence: which tensors tell a field of the config.  doubts: what is odd but may be meant.
    linears: by their names in every layout, whichever this checkpoint has.
    family: its name in FAMILIES.
    """

    base: str
    layout: str
    config: dict[str, Any]
    tensors: tuple[ModelTensor, ...]
    reason: str
    evidence: Mapping[str, str] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()
    linears: Mapping[str, tuple[Share, ...]] = field(default_factory=dict)
    family: str = ""


Reads = Literal["picture", "text", "both"]
"""The tokens of a state that a linear reads."""


@dataclass(frozen=True, slots=True)
class Family:
    """One row of FAMILIES: what a family's file knows.

    detect: (tensors, place) -> the model; None when it is of another family.
    original_rows: (name, n) -> where the original layout holds a tensor; () when it has none.
    same_input: linear -> the first of the linears that read what this one reads.
    blocks: diffusers' lists of blocks, in the order in which they run.
    stages: list of blocks -> names of a block's linears, stage after stage: what one stage reads is
    computed by those before it.
    parts: (linear, its shape) -> where its rows begin to serve another purpose, 0 first.
    reads: linear -> which tokens it reads.
    """

    name: str
    detect: Callable[[Mapping[str, StoredTensor], str], Model | None]
    original_rows: Callable[[str, int], tuple[Rows, ...]]
    same_input: Callable[[str], str]
    blocks: tuple[str, ...]
    stages: Mapping[str, tuple[tuple[str, ...], ...]] = field(default_factory=dict)
    parts: Callable[[str, tuple[int, ...]], tuple[int, ...]] = lambda linear, shape: (0,)
    reads: Callable[[str], Reads] = lambda linear: "both"


def check_names(expected: Iterable[str], found: Iterable[str], place: str) -> None:
    """Refuse missing and unexpected tensors, all at once, each with the name it was close to."""
    expected, found = set(expected), set(found)
    missing, unexpected = sorted(expected - found), sorted(found - expected)
    if not missing and not unexpected:
        return
    parts = []
    if missing:
        parts.append(f"lacks {len(missing)} tensors: {_some(missing)}")
    if unexpected:
        near = difflib.get_close_matches(unexpected[0], missing, 1) if len(missing) < 2000 else []
        tail = f" (meant {near[0]}?)" if near else ""
        parts.append(f"has {len(unexpected)} tensors of no known use: {_some(unexpected)}{tail}")
    raise BadInput("; ".join(parts), where=place, hint="fetch the checkpoint again")


def _some(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def check_shape(stored: StoredTensor, shape: tuple[int, ...]) -> None:
    """Refuse a tensor whose shape is not what the rest of the model calls for."""
    if stored.spec.shape != shape:
        raise BadInput(
            f"has shape {list(stored.spec.shape)}, expected {list(shape)}",
            where=(stored.path, f"tensor {stored.spec.name}"),
            hint="the checkpoint does not fit together: fetch it again",
        )


def check_config(config: Mapping[str, Any], model: Model, place: str) -> None:
    """Refuse a config.json that contradicts the tensors."""
    for name, tensor in model.evidence.items():
        value = model.config[name]
        configured = config.get(name, value)
        if name == "out_channels" and configured == config.get("in_channels"):
            configured = None  # diffusers takes both for the same
        if configured != value:
            raise BadInput(
                f"says {name} = {str(configured)[:80]}, but {tensor} says {value}",
                where=place,
                hint="config and weights are of different models: fetch both again",
            )
