"""What a GGUF file holds of a pack: its tensors under our names, and where their bytes are."""

from __future__ import annotations

from pathlib import Path

from bonsai_quant.core.errors import BadInput, Unsupported
from bonsai_quant.core.schema import PackTensor, StoredTensor, TensorSpec
from bonsai_quant.sources.families import detect
from bonsai_quant.storage.containers.gguf_reader import read_gguf

from .gguf import PACKED, kept_kind, pieces

READABLE = (PACKED, "BF16", "F32")


def open_gguf(path: Path) -> tuple[dict[str, StoredTensor], tuple[PackTensor, ...]]:
    """The stored pieces by their names in `pieces`, and the model's tensors by name.

    Raises BadInput (3) for a broken file, Unsupported (4) for another model or other ggml types.
    """
    found = {t.name: t for t in read_gguf(path).tensors}
    if odd := next((t for t in found.values() if t.kind not in READABLE), None):
        raise Unsupported(
            f"is {odd.kind}; a binary pack holds {', '.join(READABLE)}",
            where=(path, f"tensor {odd.name}"),
            hint="see `bonsai-quant inspect` for what is in it",
        )
    dense = {n: StoredTensor(TensorSpec(n, "BF16", t.shape), path, 0) for n, t in found.items()}
    model = detect(dense, str(path))
    if model.layout != "original":
        raise BadInput("has diffusers names; those of the original layout were expected",
                       where=str(path), hint="convert again")  # fmt: skip
    stored: dict[str, StoredTensor] = {}
    tensors = []
    for t in model.tensors:
        whole = found[t.pieces[0].stored.spec.name]
        packed = whole.kind == PACKED and len(t.shape) == 2
        kind = PACKED if packed else kept_kind(t.shape)
        if kind != whole.kind:
            raise BadInput(f"is {whole.kind}, expected {kind}",
                           where=(path, f"tensor {whole.name}"), hint="convert again")  # fmt: skip
        row_bytes = whole.nbytes // whole.shape[0]
        for piece, spec in zip(t.pieces, pieces(t.name, kind, t.shape), strict=True):
            stored[spec.name] = StoredTensor(spec, path, whole.offset + piece.start * row_bytes)
        tensors.append(PackTensor(t.name, t.shape, "binary" if packed else "keep"))
    if not any(t.packed for t in tensors):
        raise BadInput("holds no packed layer", where=str(path), hint="convert again")
    return stored, tuple(tensors)
