"""A folder with only the headers of remote weights, for planning without a download."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bonsai_quant.core.errors import BonsaiError
from bonsai_quant.core.schema import StoredTensor
from bonsai_quant.hub import client
from bonsai_quant.hub.cache import ABSENT, check_small
from bonsai_quant.hub.listing import WEIGHTS, Commit, Remote
from bonsai_quant.storage import fs
from bonsai_quant.storage.containers.safetensors import MAX_HEADER
from bonsai_quant.storage.strict_json import read_json

from .checkpoint import Source
from .components import INDEX, Algorithm, Components, names_klein
from .remote_files import is_read

MAGIC_BYTES = 512
"""Enough of a file that is not safetensors to say what it is."""


@contextmanager
def naming_the_hub(folder: str, shown: str) -> Iterator[None]:
    """Name the Hub, not a temporary folder, in the errors of the readers."""
    try:
        yield
    except BonsaiError as e:
        short = shown.partition("@")[0]
        e.where = tuple(
            str(w).replace(f"{folder}/{short}", shown).replace(folder, "") for w in e.where
        )
        raise


def copy_headers(commit: Commit, files: Iterable[Remote], mirror: Path) -> None:
    """Files of the real sizes, sparse: configs and indices whole, weights with their headers."""
    for file in files:
        data = _whole(commit, file) if is_read(file) else b""
        data = _read_header(commit, file) if file.name.endswith(WEIGHTS) else data
        path = mirror / file.path
        with fs.explained(path, "noting a header"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            os.truncate(path, file.size)


def copy_component_headers(commit: Commit, files: Iterable[Remote], mirror: Path) -> None:
    """The same of a pipeline's other components; of another pipeline, its index alone."""
    copy_headers(commit, (f for f in files if f.path == INDEX), mirror)
    if (mirror / INDEX).is_file() and names_klein(read_json(mirror / INDEX)):
        copy_headers(commit, (f for f in files if f.path != INDEX), mirror)


def _read_header(commit: Commit, file: Remote) -> bytes:
    head = _range(commit, file, 0, min(8, file.size))
    if len(head) < 8:
        return head
    (length,) = struct.unpack("<Q", head)
    length = length if length <= MAX_HEADER else MAGIC_BYTES
    return head + _range(commit, file, 8, min(8 + length, file.size))


def _whole(commit: Commit, file: Remote) -> bytes:
    data = _range(commit, file, 0, file.size)
    check_small(data, commit, file)
    return data


def _range(commit: Commit, file: Remote, start: int, stop: int) -> bytes:
    return client.patiently(
        lambda: client.read_range(commit.name, commit.sha, file.path, start, stop), commit.place
    )


def moved(source: Source, folder: Path) -> Source:
    """The same source, with its files in `folder`, where they are not yet."""

    def at(stored: StoredTensor) -> StoredTensor:
        return replace(stored, path=folder / stored.path.name)

    tensors = tuple(
        replace(t, pieces=tuple(replace(p, stored=at(p.stored)) for p in t.pieces))
        for t in source.model.tensors
    )
    files = tuple(replace(f, path=folder / f.name, identity=ABSENT) for f in source.files)
    return replace(source, files=files, model=replace(source.model, tensors=tensors))


def moved_components(
    components: Components | None, mirror: Path, commit: Commit
) -> Components | None:
    """The same for a pipeline's other components."""
    if components is None:
        return None
    snapshot, encoder = commit.snapshot, components.encoder

    def at(stored: StoredTensor) -> StoredTensor:
        return replace(stored, path=snapshot / stored.path.relative_to(mirror))

    text_encoder = replace(
        encoder,
        folder=snapshot / encoder.folder.relative_to(mirror),
        tensors=tuple(at(t) for t in encoder.tensors),
        unused=tuple(at(t) for t in encoder.unused),
    )
    files = tuple(replace(f, path=snapshot / f.name, identity=ABSENT) for f in components.files)
    return with_announced_hashes(replace(components, files=files, encoder=text_encoder), commit)


def with_announced_hashes(components: Components, commit: Commit) -> Components:
    """With the hashes that the Hub announces."""
    remote = {f.path: f for f in commit.files}
    files = tuple(replace(f, announced=_announced(remote.get(f.name))) for f in components.files)
    return replace(components, files=files)


def _announced(file: Remote | None) -> tuple[Algorithm, str] | None:
    if file is None or not (file.sha256 or file.blob):
        return None
    return ("sha256", file.sha256) if file.sha256 else ("git", file.blob)
