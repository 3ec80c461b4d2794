"""A checkpoint on disk -> its tensors and where their bytes are. Reads headers and JSON only."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bonsai_quant.core.errors import BadInput, Unsupported, printable
from bonsai_quant.core.schema import StoredTensor
from bonsai_quant.sources.families.model import check_config
from bonsai_quant.storage.containers.safetensors import Header, read_header
from bonsai_quant.storage.strict_json import read_json

from .components import Components
from .families import Model, detect
from .shards import check_index, doubt, find_index, gather, weight_files

log = logging.getLogger(__name__)

READABLE = ("BF16", "F16", "F32")
ORIGINS = ("distillation.json", "folding.json")
"""Files of a pipeline that was made from another, which they name."""
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
    Its files may still be away: `remote.download` brings them to their paths.
    shipped: its name when it comes with this program.
    components: the pipeline's others, when they were asked for and are there.
    """

    place: str
    files: tuple[SourceFile, ...]
    model: Model
    config: Mapping[str, Any]
    hub_id: str | None = None
    revision: str | None = None
    hub_sha256: Mapping[str, str] = field(default_factory=dict)
    shipped: str | None = None
    components: Components | None = None

    @property
    def origin(self) -> str | None:
        """Id of the model that this one was folded or trained from, if its folder says so."""
        for name in ORIGINS:
            path = Path(self.place) / name
            record = read_json(path) if self.id is None and path.is_file() else None
            source = record.get("source") if isinstance(record, dict) else None
            if isinstance(source, dict) and isinstance(source.get("id"), str):
                at = source.get("revision")
                return f"{source['id']}@{at}" if isinstance(at, str) else str(source["id"])
        return None

    @property
    def root(self) -> Path:
        """The model's own folder, where its card is, and its other components."""
        folder = self.files[0].path.parent
        return folder.parent if folder.name == "transformer" else folder

    @property
    def id(self) -> str | None:
        """The name it has on every machine; None for files of this one."""
        return self.hub_id or self.shipped


def read_source(path: Path, *, strict: bool = False) -> Source:
    """Recognise a checkpoint file, a transformer folder, or a pipeline folder."""
    folder, files = weight_files(path)
    headers = [read_header(f) for f in files]
    tensors = gather(headers)
    for header in headers:
        _check_fields(header, strict)
    index = find_index(folder) if folder else None
    if index is not None and folder is not None:
        check_index(index, headers, folder, strict)
    model = detect(tensors, str(path))
    _check_dtypes(tensors)
    for text in model.doubts:
        doubt(text, where=(path,), hint="fetch it again if it should be whole", strict=strict)
    config = _config(folder, model, strict)
    log.info("%s: detected %s: %s", printable(path), model.base, model.reason)
    records = tuple(_record(h, folder or path.parent) for h in headers)
    return Source(str(path), records, model, config)


def _record(header: Header, root: Path) -> SourceFile:
    name = os.fsencode(header.path.relative_to(root)).decode("utf-8", "backslashreplace")
    return SourceFile(name, header.path, header.size, header.identity)


def _check_fields(header: Header, strict: bool) -> None:
    if header.extended:
        doubt(
            "has fields other than dtype, shape and data_offsets, which are ignored "
            f"({len(header.extended)} tensors have)",
            where=(header.path, f"tensor {header.extended[0]}"),
            hint="ask the author what they mean",
            strict=strict,
        )


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
        doubt(
            f"is not there: the family's values are used for {', '.join(FREE_CONFIG)}",
            where=(path,),
            hint="fetch it too",
            strict=strict,
        )
        return config
    stored = read_json(path)
    if not isinstance(stored, dict):
        raise BadInput("is not an object", where=str(path), hint="fetch the file again")
    if stored.get("_class_name") != config["_class_name"]:
        raise Unsupported(
            f"is for {str(stored.get('_class_name'))[:80]!r}; expected {config['_class_name']}",
            where=str(path),
            hint="give the folder of a FLUX.2 transformer",
        )
    check_config(stored, model, str(path))
    return config | free_fields(stored, path)


def free_fields(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The free fields that a config.json has, if they are what they should be."""
    fields = {k: config[k] for k in FREE_CONFIG if k in config}
    for name, value in fields.items():
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
    return fields


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 2**31
