"""What is in a checkpoint or a pack of any format, from its headers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bonsai_quant.core.errors import BadInput, BonsaiError
from bonsai_quant.core.schema import TensorSpec
from bonsai_quant.sources.checkpoint import read_source
from bonsai_quant.sources.shipped import find_shipped, find_shipped_pack
from bonsai_quant.storage.containers.png_text import is_png
from bonsai_quant.storage.containers.safetensors import read_header

from .find import find_packs
from .foreign_manifest import model_version
from .manifest import Manifest
from .picture_facts import shown_facts
from .quality import quality_words
from .read import Pack, open_pack

GGUF_KEYS = ("architecture", "name")
"""What is shown of a GGUF file's metadata."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """One thing that was found. kind: `pack`, `checkpoint`, `picture`, or a container.

    facts: in order.
    """

    path: Path
    kind: str
    facts: tuple[tuple[str, str], ...]
    tensors: tuple[TensorSpec, ...]


def inspect(path: str | Path) -> tuple[Inspection, ...]:
    """Every pack at `path`, or the checkpoint, the bare safetensors, .pt, .gguf or .onnx file, or
    the picture of `generate`.

    A shipped model's name stands for its folder, unless there is a path of that name.
    """
    place = Path(path)
    if not place.exists():
        place = find_shipped(str(path)) or find_shipped_pack(str(path)) or place
    if not place.exists():
        raise BadInput("no such file or folder", where=str(path), hint="check the path")
    if is_png(place):
        return (Inspection(place, "picture", shown_facts(place), ()),)
    if folders := find_packs(place):
        return tuple(_pack(open_pack(f)) for f in folders)
    try:
        return (_checkpoint(place),)
    except BonsaiError:
        if place.is_dir():
            raise
    return (_plain(place),)


def _pack(pack: Pack) -> Inspection:
    info, m = pack.info, pack.manifest
    specs = tuple(sorted((t.spec for t in pack.stored.values()), key=lambda s: s.name))
    facts = [
        ("format", pack.format.name),
        ("mode", info.mode),
        ("base", info.base),
        ("packed", f"{len(info.packed)} layers, {sum(t.size for t in info.packed)} weights"),
        ("kept", f"{len(info.kept)} tensors, {sum(t.size for t in info.kept)} weights"),
        ("tensor data", f"{sum(s.nbytes for s in specs)} bytes"),
        ("weight file", f"{pack.path.stat().st_size} bytes"),
    ]
    if m is None:
        version = model_version(pack.foreign)
        other = f", but of {version!r}" if version else ""
        facts.append(("manifest", f"none of this program{other}"))
    else:
        facts += [
            ("bits per packed weight", f"{m.bits_per_weight:g}"),
            ("solver", _solver(m)),
            ("source", _source(m)),
            ("made by", f"{m.tool['name']} {m.tool['version']}"),
        ]
    facts += [("lora", f"{a.name}, scale {a.scale:g}") for a in (m.source.lora if m else ())]
    if m:
        facts += [*_error(m), ("pictures", quality_words(m))]
    return Inspection(pack.folder, "pack", tuple(facts), specs)


def _solver(m: Manifest) -> str:
    """How the codes were chosen: by a solver, or by training."""
    stages = m.provenance.stages if m.provenance else []
    if len(stages) > 1:
        return ", then ".join(s.stage for s in stages)
    return str(m.recipe.get("solver", "unknown"))


def _error(m: Manifest) -> list[tuple[str, str]]:
    """Of the weights, against the model that it all began with."""
    if m.provenance is not None:
        error = m.provenance.relative_error
        return [("relative error", "unknown" if error is None else f"{error:.4f}")]
    if m.measured is None or m.source.origin:
        return []
    return [("relative error", f"{m.measured.relative_error:.4f}")]


def _source(m: Manifest) -> str:
    first = m.provenance.source if m.provenance else m.source
    return first.id or m.source.id or ", ".join(f.name for f in m.source.files) or "unknown"


def _checkpoint(path: Path) -> Inspection:
    source = read_source(path)
    specs = [p.stored.spec for t in source.model.tensors for p in t.pieces]
    unique = {s.name: s for s in specs}
    packable = [t for t in source.model.tensors if t.packable]
    facts = (
        ("base", source.model.base),
        ("layout", source.model.layout),
        ("detected because", source.model.reason),
        ("files", f"{len(source.files)}, {sum(f.size for f in source.files)} bytes"),
        ("can be packed", f"{len(packable)} layers"),
        ("to be kept", f"{len(source.model.tensors) - len(packable)} tensors"),
        ("dtypes", _dtypes(unique.values())),
    )
    return Inspection(path, "checkpoint", facts, tuple(unique[n] for n in sorted(unique)))


def _plain(path: Path) -> Inspection:
    """A file of another model: its tensors are listed, no more."""
    if path.suffix == ".gguf":
        return _gguf(path)
    if path.suffix == ".onnx":
        return _onnx(path)
    if path.suffix == ".pt":
        from bonsai_quant.storage.containers.torchzip_reader import read_index

        stored, kind = read_index(path), "torch zip"
    else:
        stored, kind = read_header(path).tensors, "safetensors"
    specs = tuple(sorted((t.spec for t in stored), key=lambda s: s.name))
    facts = (
        ("tensors", str(len(specs))),
        ("tensor data", f"{sum(s.nbytes for s in specs)} bytes"),
        ("dtypes", _dtypes(specs)),
    )
    return Inspection(path, kind, facts, specs)


def _gguf(path: Path) -> Inspection:
    """Tensors with the names of their ggml types, and what the file says of itself."""
    from bonsai_quant.storage.containers.gguf_reader import read_gguf

    header = read_gguf(path)
    general = [(k, header.metadata[f"general.{k}"]) for k in GGUF_KEYS
            if f"general.{k}" in header.metadata]  # fmt: skip
    tensors = sorted(header.tensors, key=lambda t: t.name)
    specs = tuple(TensorSpec(t.name, t.kind, t.shape) for t in tensors)
    facts = (
        *((k, str(v)) for k, v in general),
        ("tensors", str(len(specs))),
        ("tensor data", f"{sum(t.nbytes for t in tensors)} bytes"),
        ("dtypes", _dtypes(specs)),
    )
    return Inspection(path, "gguf", facts, specs)


def _onnx(path: Path) -> Inspection:
    """Tensors that lie in the file or beside it, and how many of each operator there are."""
    from bonsai_quant.storage.containers.onnx_reader import read_onnx

    header = read_onnx(path)
    specs = tuple(
        sorted((TensorSpec(t.name, t.dtype, t.shape) for t in header.tensors), key=lambda s: s.name)
    )
    operators = Counter(n.op for n in header.nodes)
    facts = (
        ("tensors", str(len(specs))),
        ("tensor data", f"{sum(s.nbytes for s in specs)} bytes"),
        ("dtypes", _dtypes(specs)),
        ("operators", ", ".join(f"{n} {op}" for op, n in sorted(operators.items()))),
    )
    return Inspection(path, "onnx", facts, specs)


def _dtypes(specs: Iterable[TensorSpec]) -> str:
    counts = Counter(s.dtype for s in specs)
    return ", ".join(f"{n} {d}" for d, n in sorted(counts.items()))
