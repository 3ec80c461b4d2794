"""Headers of a checkpoint on the Hub by range requests; its weights into the Hub's own cache."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import replace
from pathlib import Path

from bonsai_quant.core.errors import (
    BadInput,
    EnvironmentFault,
    HubMismatch,
    HubUnavailable,
    UsageError,
    nearest,
)
from bonsai_quant.core.progress import Progress, no_progress
from bonsai_quant.hub import client
from bonsai_quant.hub.cache import bring, check_cache_room, check_small, discard, mismatch
from bonsai_quant.hub.listing import (
    WEIGHTS,
    Commit,
    Remote,
    find_cached,
    remember,
    resolve,
    split_id,
)
from bonsai_quant.storage import fs
from bonsai_quant.storage.strict_json import strict_json

from .checkpoint import Source, SourceFile, read_source
from .components import INDEX, find_components
from .header_mirror import (
    copy_component_headers,
    copy_headers,
    moved,
    moved_components,
    naming_the_hub,
    with_announced_hashes,
)
from .remote_files import choose, choose_components, choose_papers, is_read
from .shards import INDEX_SUFFIX
from .shipped import NAMES, PACKS

log = logging.getLogger(__name__)


def fetch(
    name: str, revision: str | None, *, strict: bool = False, components: bool = False
) -> Source:
    """A model on the Hub, from its headers alone. revision: branch, tag or commit.

    Its files' paths are where `download` puts them. What is in the cache is not asked for again.
    components: look for the pipeline's other components, too.
    """
    commit = resolve(name, revision or "")
    files, others = choose(commit), choose_components(commit) if components else ()
    if all(commit.local(f).is_file() for f in (*files, *others)):
        source = _read_cached(commit, files, others, strict=strict)
    else:
        with tempfile.TemporaryDirectory() as folder, naming_the_hub(folder, commit.place):
            mirror = Path(folder, commit.name)
            copy_headers(commit, files, mirror)
            copy_component_headers(commit, others, mirror)
            source = moved(read_source(mirror, strict=strict), commit.local(files[0]).parent)
            if components:
                away = moved_components(find_components(mirror), mirror, commit)
                source = replace(source, components=away)
    if components and source.components is None and client.offline():
        log.warning("%s: its other parts are not in the cache, packs go without", commit.place)
    hashes = {f.name: f.sha256 for f in files if f.sha256 and f.name.endswith(WEIGHTS)}
    return replace(source, place=commit.place, hub_id=name, revision=commit.sha, hub_sha256=hashes)


def download(source: Source, progress: Progress = no_progress) -> Source:
    """A source with its weights on this machine; one that is not from the Hub is there already."""
    if source.hub_id is None or source.revision is None:
        return source
    commit = resolve(source.hub_id, source.revision)
    files, others = choose(commit), choose_components(commit) if source.components else ()
    every = dict.fromkeys((*files, *others, *choose_papers(commit)))
    missing = [f for f in every if not commit.local(f).is_file()]
    check_cache_room(commit, missing)
    if missing:
        progress.phase("fetching source", sum(f.size for f in missing), "bytes")
    for i, file in enumerate(missing, 1):
        progress.note(f"file {i}/{len(missing)}")
        bring(commit, file, progress)
    local = _read_cached(commit, files, others)
    if (local.model, local.config) != (source.model, source.config) or _differ(local, source):
        raise HubMismatch(
            "the files are not those whose headers were read", where=source.place, hint="run again"
        )
    remember(replace(commit, revision=source.place.partition("@")[2]))
    return replace(source, files=local.files, components=local.components)


def _differ(a: Source, b: Source) -> bool:
    """Whether both have a text encoder, and not the same one."""
    return bool(a.components and b.components and a.components.encoder != b.components.encoder)


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
        source = read_source(folder, strict=strict)
        components = find_components(commit.snapshot) if others else None
    except BadInput:
        for file in (*files, *others):
            _check_large(commit, file)
        raise
    announced = with_announced_hashes(components, commit) if components else None
    return replace(source, components=announced)


def _check_large(commit: Commit, file: Remote) -> None:
    if not file.sha256:
        return
    _, sha256 = fs.sha256_file(commit.local(file))
    if sha256 != file.sha256:
        raise mismatch(commit, file, f"has sha256 {sha256}, the Hub announced {file.sha256}")


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


def compare_with_hub(source: Source, file: SourceFile, digest: str) -> None:
    """Refuse a file, and drop it from the cache, when its sha256 is not the announced one."""
    announced = source.hub_sha256.get(file.name)
    if announced and announced != digest:
        discard(file.path)
        raise HubMismatch(
            f"has sha256 {digest}, the Hub announced {announced}",
            where=str(file.path),
            hint="it is out of the cache now: run again to fetch it",
        )


def cached_pipeline(place: str) -> Path:
    """The folder where the Hub's cache holds a whole pipeline. place: `org/name[@revision]`."""
    name_and_revision = split_id(place)
    if name_and_revision is None:
        near = nearest(place, (*NAMES, *PACKS))
        raise UsageError(
            f"no pack, pipeline folder or Hub id {place[:300]!r}",
            hint=f"give a path, or {' or '.join(NAMES)}, which comes with this program",
            typed=place if near else "",
            meant=(near,) if near else (),
        )
    name, revision = name_and_revision
    folder, option = find_cached(name, revision), f" --revision {revision}" if revision else ""
    if folder is None or not (folder / INDEX).exists():
        raise EnvironmentFault(
            "its text encoder, tokenizer, VAE and scheduler are not on this machine",
            where=place,
            hint=f"fetch them with `hf download {name}{option}`, or pass --pipeline FOLDER",
        )
    return folder
