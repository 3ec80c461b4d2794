"""Which files a checkpoint's folder consists of, and whether its index and its shards agree."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

from bonsai_quant.core.errors import BadInput
from bonsai_quant.core.schema import StoredTensor
from bonsai_quant.storage.containers.safetensors import Header
from bonsai_quant.storage.links import refuse_outside
from bonsai_quant.storage.strict_json import read_json

log = logging.getLogger(__name__)

INDEX_SUFFIX = ".safetensors.index.json"


def weight_files(path: Path) -> tuple[Path | None, list[Path]]:
    """The folder that holds the weights (None for a lone file) and its files, in name order."""
    if not path.is_dir():
        return None, [path]
    folder = path / "transformer" if (path / "transformer").is_dir() else path
    indices = sorted(folder.glob(f"*{INDEX_SUFFIX}"))
    weights = sorted(p for p in folder.iterdir() if p.name.endswith(".safetensors"))
    if len(indices) > 1:
        raise BadInput(
            f"holds {len(indices)} indices: {', '.join(p.name for p in indices)}",
            where=str(folder),
            hint="keep one",
        )
    if indices:
        return folder, _shards(indices[0], weights, folder)
    if len(weights) > 1:
        raise BadInput(
            f"holds several weight files and no index: {_names(weights)}",
            where=str(folder),
            hint="name the file to convert",
        )
    if not weights:
        raise BadInput(
            "holds no .safetensors file",
            where=str(folder),
            hint="give a checkpoint file, a transformer folder or a pipeline folder",
        )
    refuse_outside(weights[0], folder)
    return folder, weights


def _names(paths: list[Path]) -> str:
    return ", ".join(p.name for p in paths)


def _shards(index: Path, weights: list[Path], folder: Path) -> list[Path]:
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
    if stray := [p for p in weights if p.name not in names]:
        raise BadInput(
            f"holds {_names(stray)} beside the shards of {index.name}",
            where=str(folder),
            hint="remove one or the other",
        )
    for name in names:
        refuse_outside(folder / name, folder)
    return [folder / n for n in names]


def _weight_map(index: Path) -> dict[str, str]:
    table = read_json(index)
    entries = table.get("weight_map") if isinstance(table, dict) else None
    if not isinstance(entries, dict) or not all(isinstance(v, str) for v in entries.values()):
        raise BadInput(
            "has no weight_map of names to files", where=str(index), hint="fetch the index again"
        )
    return entries


def find_index(folder: Path) -> Path | None:
    """The index of a sharded checkpoint, if it has one."""
    return next(iter(sorted(folder.glob(f"*{INDEX_SUFFIX}"))), None)


def gather(headers: list[Header]) -> dict[str, StoredTensor]:
    """The tensors of all files by name; none may stand in two."""
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


def check_index(index: Path, headers: list[Header], folder: Path, strict: bool) -> None:
    """The index and the shards must list the same tensors in the same files."""
    file_of = _weight_map(index)
    held = {t.spec.name: h.path.name for h in headers for t in h.tensors}
    if missing := sorted(n for n in file_of if n not in held):
        raise BadInput(
            "is in the index but not in the shard",
            hint="fetch the shard again",
            where=(folder / file_of[missing[0]], f"tensor {missing[0]}"),
        )
    if extra := sorted(n for n in held if n not in file_of):
        raise BadInput(
            "is in the shard but not in the index",
            hint="fetch the index again",
            where=(folder / held[extra[0]], f"tensor {extra[0]}"),
        )
    if moved := sorted(n for n in file_of if file_of[n] != held[n]):
        raise BadInput(
            f"is in {held[moved[0]]}, not where the index says",
            where=(folder / file_of[moved[0]], f"tensor {moved[0]}"),
            hint="fetch the index again",
        )
    total = sum(t.spec.nbytes for h in headers for t in h.tensors)
    metadata = read_json(index).get("metadata")
    claimed = metadata.get("total_size") if isinstance(metadata, dict) else None
    if claimed is not None and claimed != total:
        doubt(
            f"announces {str(claimed)[:40]} bytes, the shards hold {total}",
            where=(index,),
            hint="shards of two versions may be mixed: fetch them again",
            strict=strict,
        )


def doubt(text: str, *, where: tuple[object, ...], hint: str, strict: bool) -> None:
    """A warning, which `--strict` makes an error."""
    problem = BadInput(text, where=where, hint=hint)
    if strict:
        raise problem
    log.warning("warning: %s", problem)
