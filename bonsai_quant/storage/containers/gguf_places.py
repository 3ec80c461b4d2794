"""Where the tensors of a GGUF file lie, and which layout the number of their type stands for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from bonsai_quant.core.errors import BadInput, Unsupported

from .gguf import ALL_KINDS, KINDS, OTHER_KINDS, GgufTensor, padded


def of_one_layout(
    tensors: list[GgufTensor], start: int, align: int, size: int, path: Path
) -> list[GgufTensor]:
    """The tensors, each of the layout that its type's number stands for in this file.

    Where a number has two meanings, the one by which tensors follow each other to the file's end is
    taken. Raises Unsupported where both do, as in files of a few weights alone.
    """
    readings = [tensors]
    for name, kind in OTHER_KINDS.items():
        upstream = next(n for n, k in KINDS.items() if k.code == kind.code)
        if any(t.kind == upstream for t in tensors):
            other = [replace(t, kind=name) if t.kind == upstream else t for t in tensors]
            readings.append(other)
    if len(readings) == 1:
        return tensors
    fitting = [r for r in readings if _fits(r, start, align, size, path)]
    if len(fitting) > 1:
        raise Unsupported(
            "holds a type whose number stands for two layouts, and its size fits both",
            where=str(path),
            hint="export it again from a pack in another format",
        )
    return fitting[0] if fitting else tensors


def _fits(tensors: list[GgufTensor], start: int, align: int, size: int, path: Path) -> bool:
    """Whether rows are whole blocks, and places are as they must be."""
    if any(t.shape[-1] % ALL_KINDS[t.kind].weights for t in tensors):
        return False
    try:
        check_places(tensors, start, align, size, path)
    except BadInput:
        return False
    return True


def check_places(tensors: list[GgufTensor], start: int, align: int, size: int, path: Path) -> None:
    """One tensor after the other, as ggml wants them, and the file ends with the last."""
    end, names = start, set()
    for t in tensors:
        if t.name in names:
            _bad(path, t.name, "stands twice")
        names.add(t.name)
        expected = padded(end, align)
        if t.offset != expected:
            _bad(path, t.name, f"starts at byte {t.offset}, expected {expected}")
        end = t.offset + t.nbytes
    if end > size and tensors:
        _bad(path, tensors[-1].name,
             f"ends at byte {end} of a file of {size} (truncated download?)")  # fmt: skip
    if size not in (end, padded(end, align)):
        raise BadInput(f"is {size} bytes long; its tensors end at byte {end}",
                       where=str(path), hint="fetch the file again")  # fmt: skip


def _bad(path: Path, name: str, what: str) -> NoReturn:
    raise BadInput(what, where=(path, f"tensor {name[:80]}"), hint="fetch the file again")
