"""A checkpoint on disk -> its tensors and where their bytes are. Reads headers and JSON only."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .bases import Model, detect
from .bases.model import check_config
from .errors import BadInput, Unsupported, UsageError, printable
from .schema import StoredTensor
from .storage import fs
from .storage.safetensors import Header, read_header, strict_json

log = logging.getLogger(__name__)

INDEX_SUFFIX = ".safetensors.index.json"
READABLE = ("BF16", "F16", "F32")
FREE_CONFIG = ("axes_dims_rope", "eps", "rope_theta")
"""Fields of config.json that shapes do not tell: taken from the source when it has them."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of the source: `name` is relative to the source, `identity` as `fs.identity`."""

    name: str
    path: Path
    size: int
    identity: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Source:
    """A recognised checkpoint. place: as the user named it. files: in reading order.

    From the Hub: its id, the commit, and the sha256 that the Hub announces, by `SourceFile.name`.
    Its files may still be away: `hub.download` brings them to their paths.
    """

    place: str
    files: tuple[SourceFile, ...]
    model: Model
    config: Mapping[str, Any]
    hub_id: str | None = None
    revision: str | None = None
    hub_sha256: Mapping[str, str] = field(default_factory=dict)


def open_source(place: str, *, revision: str | None = None, strict: bool = False) -> Source:
    """A path, or `org/name[@revision]` on the Hub, or the bare name of a shipped model."""
    path = Path(place)
    if place and os.path.lexists(path):
        if revision is not None:
            raise UsageError(f"{place} is a path: --revision is for the Hub", hint="leave it out")
        log.info("%s is a path on this machine", printable(place))
        return read_source(path, strict=strict)
    name, sign, at = place.partition("@")
    if (
        bool(sign) == bool(at)
        and re.fullmatch(r"\w[\w.-]*/[\w.-]+", name)
        and not name.endswith(".safetensors")
    ):
        if revision and at and revision != at:
            raise UsageError(f"two revisions: {at!r} and --revision {revision!r}", hint="give one")
        from .hub import fetch

        return fetch(name, revision or at or None, strict=strict)
    raise UsageError(
        f"no file, folder or Hub id {place[:300]!r}", hint="give a path, or org/name for the Hub"
    )


def read_source(path: Path, *, strict: bool = False) -> Source:
    """Recognise a checkpoint file, a transformer folder, or a pipeline folder."""
    folder, files = _weight_files(path)
    headers = [read_header(f) for f in files]
    tensors = _gather(headers)
    for header in headers:
        _check_fields(header, strict)
    index = _read_index(folder) if folder else None
    if index is not None and folder is not None:
        _check_index(index, headers, folder, strict)
    model = detect(tensors, str(path))
    _check_dtypes(tensors)
    for doubt in model.doubts:
        _doubt(doubt, where=(path,), hint="fetch it again if it should be whole", strict=strict)
    config = _config(folder, model, strict)
    log.info("%s: detected %s: %s", printable(path), model.base, model.reason)
    records = tuple(_record(h, folder or path.parent) for h in headers)
    return Source(str(path), records, model, config)


def _record(header: Header, root: Path) -> SourceFile:
    name = os.fsencode(header.path.relative_to(root)).decode("utf-8", "backslashreplace")
    return SourceFile(name, header.path, header.size, header.identity)


def _weight_files(path: Path) -> tuple[Path | None, list[Path]]:
    """The folder that holds the weights (None for a lone file) and its files, in name order."""
    if not path.is_dir():
        return None, [path]
    folder = path / "transformer" if (path / "transformer").is_dir() else path
    indices = sorted(folder.glob(f"*{INDEX_SUFFIX}"))
    found = sorted(p for p in folder.iterdir() if p.name.endswith(".safetensors"))
    if len(indices) > 1:
        raise BadInput(
            f"holds {len(indices)} indices: {', '.join(p.name for p in indices)}",
            where=str(folder),
            hint="keep one",
        )
    if indices:
        return folder, _shards(indices[0], found, folder)
    if len(found) > 1:
        raise BadInput(
            f"holds several weight files and no index: {_names(found)}",
            where=str(folder),
            hint="name the file to convert",
        )
    if not found:
        raise BadInput(
            "holds no .safetensors file",
            where=str(folder),
            hint="give a checkpoint file, a transformer folder or a pipeline folder",
        )
    _refuse_outside(found[0], folder)
    return folder, found


def _names(paths: list[Path]) -> str:
    return ", ".join(p.name for p in paths)


def _shards(index: Path, found: list[Path], folder: Path) -> list[Path]:
    names = sorted(set(_weight_map(index).values()))
    for name in names:
        plain = re.fullmatch(r"[\w][\w.\- ]*\.safetensors", name)
        if not plain:
            raise BadInput(
                f"names the shard {name!r}, which is not a plain file name",
                where=str(index),
                hint="do not use this checkpoint",
            )
    if missing := [n for n in names if not os.path.lexists(folder / n)]:
        raise BadInput(
            f"lists {len(missing)} shards that are not there: {', '.join(missing)}",
            where=str(index),
            hint="fetch the missing files",
        )
    if stray := [p for p in found if p.name not in names]:
        raise BadInput(
            f"holds {_names(stray)} beside the shards of {index.name}",
            where=str(folder),
            hint="remove one or the other",
        )
    for name in names:
        _refuse_outside(folder / name, folder)
    return [folder / n for n in names]


def _refuse_outside(path: Path, folder: Path) -> None:
    """A link may lead within the folder, or to the blobs of the Hub cache it stands in."""
    if not path.is_symlink():
        return
    real, root = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    if real.is_relative_to(root):
        return
    repo = next((p.parent for p in root.parents if p.name == "snapshots"), None)
    if repo and re.fullmatch(r"[0-9a-f]{40,64}", real.name):
        shared = repo.parent / "blobs" / real.name[:2]  # blobs of several repos
        if real.parent in (repo / "blobs", shared):
            return
    raise BadInput(
        f"is a link that leaves the model's folder (to {real})",
        where=str(path),
        hint="copy the file into the folder",
    )


def _weight_map(index: Path) -> dict[str, str]:
    table = _read_json(index)
    entries = table.get("weight_map") if isinstance(table, dict) else None
    if not isinstance(entries, dict) or not all(isinstance(v, str) for v in entries.values()):
        raise BadInput(
            "has no weight_map of names to files", where=str(index), hint="fetch the index again"
        )
    return entries


def _read_json(path: Path) -> Any:
    try:
        return strict_json(fs.read_small(path))
    except ValueError as e:
        raise BadInput(f"is not JSON: {e}", where=str(path), hint="fetch the file again") from e


def _read_index(folder: Path) -> Path | None:
    return next(iter(sorted(folder.glob(f"*{INDEX_SUFFIX}"))), None)


def _check_index(index: Path, headers: list[Header], folder: Path, strict: bool) -> None:
    """The index and the shards must list the same tensors in the same files."""
    said = _weight_map(index)
    held = {t.spec.name: h.path.name for h in headers for t in h.tensors}
    if missing := sorted(n for n in said if n not in held):
        raise BadInput(
            "is in the index but not in the shard",
            hint="fetch the shard again",
            where=(folder / said[missing[0]], f"tensor {missing[0]}"),
        )
    if extra := sorted(n for n in held if n not in said):
        raise BadInput(
            "is in the shard but not in the index",
            hint="fetch the index again",
            where=(folder / held[extra[0]], f"tensor {extra[0]}"),
        )
    if moved := sorted(n for n in said if said[n] != held[n]):
        raise BadInput(
            f"is in {held[moved[0]]}, not where the index says",
            where=(folder / said[moved[0]], f"tensor {moved[0]}"),
            hint="fetch the index again",
        )
    total = sum(t.spec.nbytes for h in headers for t in h.tensors)
    metadata = _read_json(index).get("metadata")
    claimed = metadata.get("total_size") if isinstance(metadata, dict) else None
    if claimed is not None and claimed != total:
        _doubt(
            f"announces {str(claimed)[:40]} bytes, the shards hold {total}",
            where=(index,),
            hint="shards of two versions may be mixed: fetch them again",
            strict=strict,
        )


def _doubt(text: str, *, where: tuple[object, ...], hint: str, strict: bool) -> None:
    """A warning, which `--strict` makes an error."""
    problem = BadInput(text, where=where, hint=hint)
    if strict:
        raise problem
    log.warning("warning: %s", problem)


def _check_fields(header: Header, strict: bool) -> None:
    if header.extended:
        _doubt(
            "has fields other than dtype, shape and data_offsets, which are ignored "
            f"({len(header.extended)} tensors have)",
            where=(header.path, f"tensor {header.extended[0]}"),
            hint="ask the author what they mean",
            strict=strict,
        )


def _gather(headers: list[Header]) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    for header in headers:
        for t in header.tensors:
            if t.spec.name in tensors:
                first = tensors[t.spec.name].path.name
                raise BadInput(
                    f"stands in {first} too",
                    hint="keep one of the two files",
                    where=(header.path, f"tensor {t.spec.name}"),
                )
            tensors[t.spec.name] = t
    return tensors


def _check_dtypes(tensors: Mapping[str, StoredTensor]) -> None:
    for t in tensors.values():
        if t.spec.dtype not in READABLE:
            raise Unsupported(
                f"has dtype {t.spec.dtype}; {', '.join(READABLE)} are read",
                where=(t.path, f"tensor {t.spec.name}"),
                hint="start from the full-precision checkpoint",
            )


def _config(folder: Path | None, model: Model, strict: bool) -> dict[str, Any]:
    """The config that packs carry: what the shapes say, with the source's free fields."""
    config = dict(model.config)
    path = folder / "config.json" if folder else None
    if path is None or model.layout != "diffusers":
        return config
    if not os.path.lexists(path):
        _doubt(
            f"is not there: the family's values are used for {', '.join(FREE_CONFIG)}",
            where=(path,),
            hint="fetch it too",
            strict=strict,
        )
        return config
    said = _read_json(path)
    if not isinstance(said, dict):
        raise BadInput("is not an object", where=str(path), hint="fetch the file again")
    if said.get("_class_name") != config["_class_name"]:
        raise Unsupported(
            f"is for {str(said.get('_class_name'))[:80]!r}; expected {config['_class_name']}",
            where=str(path),
            hint="give the folder of a FLUX.2 transformer",
        )
    check_config(said, model, str(path))
    return config | _free_fields(said, path)


def _free_fields(said: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The free fields that a config.json has, if they are what they should be."""
    found = {k: said[k] for k in FREE_CONFIG if k in said}
    for name, value in found.items():
        values = value if name == "axes_dims_rope" else [value]
        if (
            not isinstance(values, list)
            or not 0 < len(values) <= 8
            or not all(map(_is_positive, values))
        ):
            raise BadInput(
                f"has {name} = {str(value)[:80]}, which is not what this field holds",
                where=str(path),
                hint="fetch the file again",
            )
    return found


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 2**31
