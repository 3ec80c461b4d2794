"""Headers of a checkpoint on the Hub by range requests; its weights into the Hub's own cache."""

from __future__ import annotations

import hashlib
import logging
import os
import struct
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from ..errors import BadInput, BonsaiError, EnvironmentFault, HubMismatch, HubUnavailable
from ..parts import INDEX, Parts, find_parts, names_klein
from ..schema import StoredTensor
from ..shards import INDEX_SUFFIX, read_json
from ..source import Source, read_source
from ..storage import fs
from ..storage.safetensors import MAX_HEADER, strict_json
from ..storage.staging import free_bytes
from ..version import TOOL, __version__
from . import client
from .commit import (
    WEIGHTS,
    Commit,
    Remote,
    cache_folder,
    choose,
    choose_papers,
    choose_parts,
    is_read,
    remember,
    resolve,
)

log = logging.getLogger(__name__)

ABSENT = (0, 0, 0, 0)
"""Identity of a file that is not on this machine yet; equals that of no real file."""
MAGIC_BYTES = 512
"""Enough of a file that is not safetensors to say what it is."""


def fetch(name: str, revision: str | None, *, strict: bool = False, parts: bool = False) -> Source:
    """A model on the Hub, from its headers alone. revision: branch, tag or commit.

    Its files' paths are where `download` puts them. What is in the cache is not asked for again.
    parts: look for the pipeline's other parts, too.
    """
    commit = resolve(name, revision or "")
    files, others = choose(commit), choose_parts(commit) if parts else ()
    if all(commit.local(f).is_file() for f in (*files, *others)):
        found = _read_cached(commit, files, others, strict=strict)
    else:
        with tempfile.TemporaryDirectory() as folder, _named(folder, commit.place):
            mirror = Path(folder, commit.name)
            _copy_headers(commit, files, mirror)
            _copy_parts(commit, others, mirror)
            found = _moved(read_source(mirror, strict=strict), commit.local(files[0]).parent)
            if parts:
                found = replace(found, parts=_moved_parts(find_parts(mirror), mirror, commit))
    if parts and found.parts is None and client.offline():
        log.warning("%s: its other parts are not in the cache, packs go without", commit.place)
    hashes = {f.name: f.sha256 for f in files if f.sha256 and f.name.endswith(WEIGHTS)}
    return replace(found, place=commit.place, hub_id=name, revision=commit.sha, hub_sha256=hashes)


def download(source: Source) -> Source:
    """A source with its weights on this machine; one that is not from the Hub is there already."""
    if source.hub_id is None or source.revision is None:
        return source
    commit = resolve(source.hub_id, source.revision)
    files, others = choose(commit), choose_parts(commit) if source.parts else ()
    every = dict.fromkeys((*files, *others, *choose_papers(commit)))
    missing = [f for f in every if not commit.local(f).is_file()]
    check_cache_room(commit, missing)
    for file in missing:
        bring(commit, file)
    found = _read_cached(commit, files, others)
    if (found.model, found.config) != (source.model, source.config) or (
        found.parts and source.parts and found.parts.encoder != source.parts.encoder
    ):
        raise HubMismatch(
            "the files are not those whose headers were read", where=source.place, hint="run again"
        )
    remember(replace(commit, revision=source.place.partition("@")[2]))
    return replace(source, files=found.files, parts=found.parts)


def discard(path: Path) -> None:
    """Remove a file from the Hub's cache: its link, the blob behind it, and nothing elsewhere."""
    blob = path.parent / os.readlink(path) if path.is_symlink() else path
    shared = Path(os.path.realpath(path))  # blobs of several repos can be one file
    for each in (shared, blob, path):
        if Path(os.path.realpath(each.parent)).is_relative_to(cache_folder()):
            with suppress(OSError):
                each.unlink(missing_ok=True)


@contextmanager
def _named(folder: str, shown: str) -> Iterator[None]:
    """Name the Hub, not a temporary folder, in the errors of the readers."""
    try:
        yield
    except BonsaiError as e:
        short = shown.partition("@")[0]
        e.where = tuple(
            str(w).replace(f"{folder}/{short}", shown).replace(folder, "") for w in e.where
        )
        raise


def _copy_headers(commit: Commit, files: Iterable[Remote], mirror: Path) -> None:
    """Files of the real sizes, sparse: configs and indices whole, weights with their headers."""
    for file in files:
        data = _whole(commit, file) if is_read(file) else b""
        data = _read_header(commit, file) if file.name.endswith(WEIGHTS) else data
        path = mirror / file.path
        with fs.explained(path, "noting a header"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            os.truncate(path, file.size)


def _copy_parts(commit: Commit, files: Iterable[Remote], mirror: Path) -> None:
    """The same of a pipeline's other parts; of another pipeline, only what says so."""
    _copy_headers(commit, (f for f in files if f.path == INDEX), mirror)
    if (mirror / INDEX).is_file() and names_klein(read_json(mirror / INDEX)):
        _copy_headers(commit, (f for f in files if f.path != INDEX), mirror)


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


def git_hash(data: bytes) -> str:
    """The name that git gives to a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def check_small(data: bytes, commit: Commit, file: Remote) -> None:
    """Compare a small file with the hash that git gave it, or the large-file store."""
    found = hashlib.sha256(data).hexdigest() if file.sha256 else git_hash(data)
    announced = file.sha256 or file.blob
    if announced and found != announced:
        raise mismatch(commit, file, f"has hash {found}, the Hub announced {announced}")


def mismatch(commit: Commit, file: Remote, what: str) -> HubMismatch:
    """The error for a file that is not the one announced, which leaves the cache by this."""
    discard(commit.local(file))
    return HubMismatch(
        what,
        where=(commit.place, file.path),
        hint="it is out of the cache now: run again to fetch it",
    )


def _moved(source: Source, folder: Path) -> Source:
    """The same source, with its files in `folder`, where they are not yet."""

    def at(stored: StoredTensor) -> StoredTensor:
        return replace(stored, path=folder / stored.path.name)

    tensors = tuple(
        replace(t, pieces=tuple(replace(p, stored=at(p.stored)) for p in t.pieces))
        for t in source.model.tensors
    )
    files = tuple(replace(f, path=folder / f.name, identity=ABSENT) for f in source.files)
    return replace(source, files=files, model=replace(source.model, tensors=tensors))


def _moved_parts(parts: Parts | None, mirror: Path, commit: Commit) -> Parts | None:
    """The same for a pipeline's other parts."""
    if parts is None:
        return None
    snapshot, encoder = commit.snapshot, parts.encoder

    def at(stored: StoredTensor) -> StoredTensor:
        return replace(stored, path=snapshot / stored.path.relative_to(mirror))

    moved = replace(
        encoder,
        folder=snapshot / encoder.folder.relative_to(mirror),
        tensors=tuple(at(t) for t in encoder.tensors),
        unused=tuple(at(t) for t in encoder.unused),
    )
    files = tuple(replace(f, path=snapshot / f.name, identity=ABSENT) for f in parts.files)
    return _announced(replace(parts, files=files, encoder=moved), commit)


def _announced(parts: Parts, commit: Commit) -> Parts:
    """With the hashes that the Hub announces."""
    hashes = {f.path: f.sha256 or f.blob for f in commit.files}
    files = tuple(replace(f, announced=hashes.get(f.name, "")) for f in parts.files)
    return replace(parts, files=files)


def _read_cached(
    commit: Commit, files: tuple[Remote, ...], others: tuple[Remote, ...], *, strict: bool = False
) -> Source:
    """The source in the cache. Its weights are hashed here only when they make no sense."""
    for file in (*files, *others):
        path = commit.local(file)
        if path.stat().st_size != file.size:
            raise mismatch(
                commit, file, f"is {path.stat().st_size} bytes, the Hub announced {file.size}"
            )
        if is_read(file):
            check_small(fs.read_small(path), commit, file)
    folder = commit.local(files[0]).parent
    _check_shards(commit, files)
    try:
        found = read_source(folder, strict=strict)
        parts = find_parts(commit.snapshot) if others else None
    except BadInput:
        for file in (*files, *others):
            _check_large(commit, file)
        raise
    return replace(found, parts=_announced(parts, commit) if parts else None)


def _check_large(commit: Commit, file: Remote) -> None:
    if not file.sha256:
        return
    _, found = fs.sha256_file(commit.local(file))
    if found != file.sha256:
        raise mismatch(commit, file, f"has sha256 {found}, the Hub announced {file.sha256}")


def _check_shards(commit: Commit, files: tuple[Remote, ...]) -> None:
    """When offline the cache may hold an index, but not all of its shards."""
    held = {f.name for f in files}
    for file in files:
        if client.offline() and file.name.endswith(INDEX_SUFFIX):
            table = strict_json(fs.read_small(commit.local(file)))
            if missing := sorted(set(table["weight_map"].values()) - held):
                raise HubUnavailable(
                    f"is not complete in the cache: {', '.join(missing)} is missing",
                    where=commit.place,
                    hint="unset HF_HUB_OFFLINE and run again",
                )


def check_cache_room(commit: Commit, missing: Iterable[Remote]) -> None:
    """Refuse a download that the cache's disk cannot take."""
    need, have = sum(f.size for f in missing), free_bytes(commit.snapshot)
    if need > have:
        raise EnvironmentFault(
            f"the download needs {need} bytes, {have} are free",
            where=str(cache_folder()),
            hint="free some space, or set HF_HOME to a folder on another disk",
        )


def bring(commit: Commit, file: Remote) -> None:
    """Fetch a file into the cache; the client checks its size, not its hash."""
    from huggingface_hub import hf_hub_download

    def call() -> None:
        try:
            hf_hub_download(
                commit.name,
                file.path,
                revision=commit.sha,
                cache_dir=cache_folder(),
                library_name=TOOL,
                library_version=__version__,
            )
        except (RuntimeError, ValueError) as e:  # of the transfer protocol
            what = f"could not be fetched: {client.scrubbed(e)}"
            raise HubUnavailable(what, where=(commit.place, file.path), hint=client.AGAIN) from None

    log.info("%s: fetching %s, %d bytes", commit.place, file.path, file.size)
    client.patiently(call, f"{commit.place}: {file.path}")
