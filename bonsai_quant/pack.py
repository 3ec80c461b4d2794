"""Reading a pack back, in any format, ours or published by others."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import ongrid
from .bases import Model, detect
from .bases.model import check_config
from .errors import BadInput, BonsaiError, Unsupported, VerificationFailed
from .formats import FORMATS, Format
from .formats.format import all_specs, stored_parts
from .formats.gguf_pack import open_gguf
from .formats.kept import nearest_kept
from .manifest import BESIDE, Manifest, is_foreign_manifest, read_manifest
from .manifest import NAME as MANIFEST
from .schema import (
    FORMAT_NAMES,
    GROUP,
    NUMPY_DTYPE,
    Action,
    Mode,
    PackedLayer,
    PackInfo,
    PackTensor,
    StoredTensor,
    TensorSpec,
)
from .shipped import find_shipped_pack
from .source import free_fields
from .storage import fs
from .storage.safetensors import read_header, strict_json

log = logging.getLogger(__name__)

MODES: tuple[Mode, ...] = ("ternary", "binary")
MARKS = {"bonsai": ".codes", "mlx": ".scales", "gemlite": ".W_q"}
"""The stored tensor that each packed layer has exactly one of."""
KEPT_BY_OTHERS = ("BF16", "F16", "F32")
"""What kept tensors may be in packs of other programs; clients cast them to 16 bits of theirs."""
PARTS_OF_OTHERS = {"gemlite": {".scales": ("F16",), ".zeros": ("F16",)}}
"""What parts of packed layers may be there, besides what this program writes."""


@dataclass(frozen=True, slots=True)
class Pack:
    """An opened pack. stored: name -> where its bytes are. manifest: None in packs of others.

    fd: the weight file while `integrity.held` keeps it open; otherwise each read opens it.
    """

    folder: Path
    format: Format
    info: PackInfo
    stored: Mapping[str, StoredTensor]
    manifest: Manifest | None
    fd: int | None = None

    def parts(self, tensor: PackTensor) -> list[np.ndarray]:
        """The stored arrays of a tensor, in the order of the format's `parts`."""
        return [self._read(s.name) for s in stored_parts(self.format, tensor, self.info.bits)]

    def layer(self, tensor: PackTensor, parts: list[np.ndarray] | None = None) -> PackedLayer:
        """A packed layer in canonical form; VerificationFailed at the first illegal value."""
        out, n = tensor.shape
        found = self.parts(tensor) if parts is None else parts
        try:
            return self.format.decode(tensor.linear, (out, n), self.info.bits, found)
        except VerificationFailed as e:
            e.where = (self.path, *e.where)
            raise

    def kept(self, tensor: PackTensor) -> np.ndarray:
        """A kept tensor as float16."""
        return self.kept_and_rounded(tensor)[0]

    def kept_and_rounded(self, tensor: PackTensor) -> tuple[np.ndarray, int]:
        """A kept tensor as float16, and how many values had to be rounded for it.

        None in a pack of this program. Other programs keep bf16 as trained, which below 2^-17 is
        finer than fp16.
        """
        try:
            parts = self.parts(tensor)
            if self.manifest is None and tensor.name in self.stored:
                dtype = self.stored[tensor.name].spec.dtype
                return nearest_kept(parts[0], dtype, tensor.name)
            return self.format.kept.decode(tensor, parts), 0
        except VerificationFailed as e:
            e.where = (self.path, *e.where)
            raise

    @property
    def path(self) -> Path:
        """The weight file."""
        return self.folder / self.format.weights_path(self.info.mode)

    def _read(self, name: str) -> np.ndarray:
        stored = self.stored[name]
        fd = fs.open_regular(stored.path)[0] if self.fd is None else self.fd
        try:
            data = fs.pread(fd, stored.spec.nbytes, stored.offset, stored.path)
        finally:
            if self.fd is None:
                os.close(fd)
        return np.frombuffer(data, NUMPY_DTYPE[stored.spec.dtype]).reshape(stored.spec.shape)


RECORDS = ("calibration.json", "folding.json", "distillation.json")
"""What lies in the folders that lead to packs, and lists their files."""


def find_packs(path: Path) -> list[Path]:
    """The pack folders at `path`: itself, those that a conversion put into it, or a shipped one."""
    if not os.path.lexists(path) and (shipped := find_shipped_pack(str(path))):
        return [shipped]
    if weight_file(path) or _is_listed(path):
        return [path]
    # A manifest without its weights is a damaged pack, which must not be passed over.
    folders = [path / n for n in FORMAT_NAMES]
    return [f for f in folders if weight_file(f) or _is_listed(f)]


def _is_listed(folder: Path) -> bool:
    return (folder / MANIFEST).is_file() and not is_foreign_manifest(folder)


def weight_file(folder: Path) -> tuple[str, Mode, Path] | None:
    """Format, mode and weight file of a pack's folder, from the files that are there."""
    for name in FORMAT_NAMES:
        for mode in MODES:
            path = folder / FORMATS[name].weights_path(mode)
            if os.path.lexists(path) and (name != "unpacked" or _is_unpacked(folder, path)):
                return name, mode, path
    return None


def _is_unpacked(folder: Path, path: Path) -> bool:
    """Any checkpoint lies like this: our manifest tells, else the weights themselves."""
    ours = os.path.lexists(folder / MANIFEST) and not is_foreign_manifest(folder)
    return ours or ongrid.is_on_grid(path)


def open_pack(folder: Path) -> Pack:
    """Open a pack of any format; its weight file must hold exactly the tensors it calls for."""
    found = weight_file(folder)
    if found is None:
        raise BadInput(
            "is not a pack",
            where=str(folder),
            hint=f"give a folder with {FORMATS['bonsai'].weights_path('ternary')}, or "
            "see `bonsai-quant inspect`",
        )
    name, mode, path = found
    manifest = (
        None
        if not (folder / MANIFEST).exists() or is_foreign_manifest(folder)
        else read_manifest(folder)
    )
    if manifest and manifest.format != name:
        raise BadInput(
            f"holds a {name} pack, but its manifest says {manifest.format}",
            where=str(folder),
            hint="convert again",
        )
    fmt = FORMATS[name]
    if name == "gguf":
        mode, (stored, tensors) = "binary", open_gguf(path)
    else:
        stored = _index(path)
        mode, tensors = _inventory(name, mode, stored, manifest, path)
    model = detect(_dense_view(tensors, path), str(path))
    info = PackInfo(model.base, mode, _config(path.parent, model), tensors)
    _check_specs(fmt, info, stored, manifest is None, path)
    return Pack(folder, fmt, info, stored, manifest)


def _index(path: Path) -> dict[str, StoredTensor]:
    if path.suffix == ".pt":
        from .storage.torchzip_reader import read_index

        return {t.spec.name: t for t in read_index(path)}
    return {t.spec.name: t for t in read_header(path).tensors}


def _inventory(
    name: str, mode: Mode, stored: Mapping[str, StoredTensor], manifest: Manifest | None, path: Path
) -> tuple[Mode, tuple[PackTensor, ...]]:
    """The model's tensors, and the mode that the width of the codes tells."""
    shapes = {n: t.spec.shape for n, t in stored.items()}
    if name == "unpacked":
        return _unpacked_inventory(stored, manifest, path)
    linears = [n.removesuffix(MARKS[name]) for n in shapes if n.endswith(MARKS[name])]
    if not linears:
        raise BadInput("holds no packed layer", where=str(path), hint="convert again")
    sizes = {n: _shape_of(name, n, shapes, path) for n in linears}
    bits = {b for _, _, b in sizes.values()}
    if len(bits) != 1 or not bits <= {1, 2}:
        raise Unsupported(
            f"mixes code widths {sorted(bits)}",
            where=str(path),
            hint="one width per pack is supported",
        )
    mode = "ternary" if bits == {2} else "binary"
    packed = [
        PackTensor(f"{n}.weight", (out, width), _action(n, mode, manifest))
        for n, (out, width, _) in sizes.items()
    ]
    kept = [
        PackTensor(n, s, "keep")
        for n, s in shapes.items()
        if n.endswith(".weight") and n.removesuffix(".weight") not in sizes
    ]
    return mode, tuple(sorted(packed + kept, key=lambda t: t.name))


def _shape_of(
    name: str, linear: str, shapes: Mapping[str, tuple[int, ...]], path: Path
) -> tuple[int, int, int]:
    """(out, in, bits) of a packed layer, from the shapes of its parts."""
    codes = shapes.get(f"{linear}{'.weight' if name == 'mlx' else MARKS[name]}", ())
    scales = shapes.get(f"{linear}.scales", ())
    if len(codes) != 2 or len(scales) != 2:
        raise BadInput(
            "lacks codes or scales of two axes",
            hint="convert again",
            where=(path, f"tensor {linear}"),
        )
    if name == "gemlite":
        codes, scales = codes[::-1], scales[::-1]
    out, n = codes[0], scales[1] * GROUP
    if name == "bonsai":
        return out, n, 1 if codes[1] == n // 8 else 2
    return out, n, codes[1] * (32 if name == "mlx" else 8) // max(n, 1)


def _unpacked_inventory(
    stored: Mapping[str, StoredTensor], manifest: Manifest | None, path: Path
) -> tuple[Mode, tuple[PackTensor, ...]]:
    model = detect(stored, str(path))
    packable = [t.name for t in model.tensors if t.packable]
    if manifest is None:
        found = ongrid.kinds(stored[n] for n in packable)
        mode = ongrid.mode_of(found.values())
        chosen: dict[str, Action] = {n: "keep" if k == "dense" else mode for n, k in found.items()}
        if off := [n for n, a in chosen.items() if a == "keep"]:
            log.warning("%s: %d layers are on no grid, and kept: %s, ...", path, len(off), off[0])
    else:
        mode, chosen = manifest.mode, _chosen(manifest, packable)
    return mode, tuple(
        PackTensor(t.name, t.shape, chosen.get(t.name, "keep")) for t in model.tensors
    )


def _chosen(manifest: Manifest, packable: list[str]) -> dict[str, Action]:
    """What the recipe did with every tensor that can be packed."""
    from .recipe import Recipe, apply_overrides

    recipe = Recipe.model_validate(manifest.recipe)
    rules = apply_overrides(recipe, [n.removesuffix(".weight") for n in packable])
    return {n: rules.get(n.removesuffix(".weight"), (manifest.mode, ""))[0] for n in packable}


def _action(linear: str, mode: Mode, manifest: Manifest | None) -> Mode:
    """A binary layer in a ternary pack looks ternary; only the recipe tells."""
    import fnmatch

    action: Mode = mode
    for rule in manifest.recipe.get("layers", []) if manifest else []:
        if fnmatch.fnmatch(linear, rule["match"]) and rule["action"] in MODES:
            action = rule["action"]
    return action


def _dense_view(tensors: tuple[PackTensor, ...], path: Path) -> dict[str, StoredTensor]:
    """The model's tensors as a checkpoint would hold them, for the base to recognise."""
    return {t.name: StoredTensor(TensorSpec(t.name, "BF16", t.shape), path, 0) for t in tensors}


def _config(folder: Path, model: Model) -> dict[str, Any]:
    """What the shapes tell, and what only the pack's config.json can, where there is one."""
    path = folder / "config.json"
    if not path.is_file():
        return dict(model.config)
    try:
        said = strict_json(fs.read_small(path))
    except ValueError as e:
        raise BadInput(f"is not JSON: {e}", where=str(path), hint="convert again") from e
    if not isinstance(said, dict):
        raise BadInput("is not an object", where=str(path), hint="convert again")
    check_config(said, model, str(path))
    return dict(model.config) | free_fields(said, path)


def _check_specs(
    fmt: Format, info: PackInfo, stored: Mapping[str, StoredTensor], foreign: bool, path: Path
) -> None:
    """Exactly the tensors that the format calls for. foreign: written by another program."""
    expected = {s.name: s for s in all_specs(fmt, info)}
    kept = {t.name for t in info.kept}
    for name in sorted(set(expected) | set(stored)):
        if name not in stored:
            raise BadInput("is missing", where=(path, f"tensor {name}"), hint="convert again")
        if name not in expected:
            raise BadInput(
                "has no place in this format, and clients refuse the file for it",
                where=(path, f"tensor {name}"),
                hint="convert again",
            )
        found, due = stored[name].spec, expected[name]
        also = _also(fmt.name, name, name in kept) if foreign else ()
        if found.dtype not in (due.dtype, *also) or found.shape != due.shape:
            raise BadInput(
                f"is {found.dtype} {list(found.shape)}, expected {due.dtype} {list(due.shape)}",
                where=(path, f"tensor {name}"),
                hint="convert again",
            )


def _also(format_name: str, name: str, kept: bool) -> tuple[str, ...]:
    """Further dtypes that a tensor may have in packs of other programs."""
    parts = PARTS_OF_OTHERS.get(format_name, {})
    return KEPT_BY_OTHERS if kept else parts.get(f".{name.rpartition('.')[2]}", ())


def is_ours(out: Path) -> bool:
    """Whether a folder holds what this program made and nothing else, so that it may be replaced.

    Packs, or what leads to them: a calibration, a folded or a trained pipeline.
    """
    if out.is_symlink() or not out.is_dir():
        return False
    there = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_symlink() or not p.is_dir()}
    if record := next((r for r in RECORDS if r in there), None):
        return there <= {record, *_listed(out / record)}
    folders = find_packs(out)
    listed: set[str] = set()
    for folder in folders:
        try:
            manifest = read_manifest(folder)
        except BonsaiError:
            return False
        listed |= {str((folder / f.path).relative_to(out)) for f in manifest.files}
        listed |= {str((folder / n).relative_to(out)) for n in (MANIFEST, *BESIDE)}
    return bool(folders) and there <= listed


def _listed(record: Path) -> set[str]:
    """The files that a record says belong to it."""
    try:
        said = strict_json(fs.read_small(record))
    except (BonsaiError, ValueError):
        return set()
    files = said.get("files") if isinstance(said, dict) else None
    return {f for f in files if isinstance(f, str)} if isinstance(files, list) else set()
