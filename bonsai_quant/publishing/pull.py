"""A pack from the Hub: one commit, every file against its hash, whole or not at all."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bonsai_quant.core.errors import BadInput, HubMismatch, UsageError
from bonsai_quant.core.progress import Progress, no_progress
from bonsai_quant.hub.cache import bring, check_cache_room, discard, git_hash, mismatch
from bonsai_quant.hub.listing import Commit, Remote, resolve, split_id
from bonsai_quant.hub.upload import read_remote
from bonsai_quant.packs.manifest import BESIDE, Manifest, is_of_this_program, validate_manifest
from bonsai_quant.packs.manifest import NAME as MANIFEST
from bonsai_quant.packs.output import check_free
from bonsai_quant.storage import fs
from bonsai_quant.storage.copy import copy_file
from bonsai_quant.storage.disk import require_free_disk, same_disk
from bonsai_quant.storage.staging import Staging
from bonsai_quant.storage.strict_json import strict_json

log = logging.getLogger(__name__)

MAX_MANIFEST = 16 << 20
MAX_PACK = 1 << 40


@dataclass(frozen=True, slots=True)
class Pulled:
    """What came down. manifest: None in packs of other programs.  files, size: in all."""

    out: Path
    repo: str
    commit: str
    manifest: Manifest | None
    files: int
    size: int


def pull(
    repo: str,
    *,
    out: str | Path | None = None,
    revision: str | None = None,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Pulled:
    """Bring a repo's pack into a folder. repo: `owner/name[@revision]`; out: `./name` when None.

    Of a pack of this program: what its manifest lists, each file with the size and the sha256 that
    stand there. Of others: every file, as the Hub announces it. What an interrupted run has fetched
    is in the Hub's cache, where the next one finds it; it leaves the cache when the pack is whole.
    """
    named = split_id(repo)
    if named is None:
        raise UsageError(f"{repo[:200]!r} is no repo of the Hub", hint="give OWNER/NAME[@REVISION]")
    name, at = named
    if revision and at and revision != at:
        raise UsageError(f"two revisions: {at!r} and --revision {revision!r}", hint="give one")
    target = Path(out) if out is not None else Path(name.partition("/")[2])
    check_free(target, overwrite=overwrite)
    commit = resolve(name, revision or at)
    manifest = read_manifest(commit)
    files = _wanted(commit, manifest)
    missing = [f for f in files if not commit.local(f).exists()]
    _check_room(commit, files, missing, target)
    total = sum(f.size for f in files)
    hashes = {f.path: f.sha256 for f in manifest.files} if manifest else {}
    with Staging(target, overwrite=overwrite) as staging:
        progress.phase("fetching", total, "bytes")
        for i, file in enumerate(files, 1):
            progress.note(f"file {i}/{len(files)}")
            _fetch(commit, file, hashes.get(file.path), staging, progress)
        staging.commit({f.path for f in files})
    for file in missing:
        discard(commit.local(file))
    return Pulled(target, name, commit.sha, manifest, len(files), total)


def _check_room(
    commit: Commit, files: Sequence[Remote], missing: Sequence[Remote], out: Path
) -> None:
    """The files stand in the cache and in the output, until the output is whole."""
    check_cache_room(commit, missing)
    both = same_disk(commit.snapshot, out)
    require_free_disk(sum(f.size for f in (*files, *(missing if both else ()))), out)


def read_manifest(commit: Commit) -> Manifest | None:
    """The pack's own manifest, if this program wrote it."""
    listed = next((f for f in commit.files if f.path == MANIFEST), None)
    if listed is None or not 0 <= listed.size <= MAX_MANIFEST:
        return None
    text = read_remote(commit, MANIFEST) or b""
    where = f"{commit.place}: {MANIFEST}"
    try:
        data = strict_json(text)
        return validate_manifest(data, where) if is_of_this_program(data) else None
    except ValueError as e:
        raise BadInput(f"is not JSON: {e}", where=where, hint="ask who published it") from e


def _wanted(commit: Commit, manifest: Manifest | None) -> list[Remote]:
    """What to fetch, refused before a byte of it when the listing is not the manifest's."""
    there = {f.path: f for f in commit.files if not f.path.startswith(".")}
    for file in there.values():
        if not isinstance(file.size, int) or not 0 <= file.size <= MAX_PACK:
            raise BadInput(f"the Hub says {file.size} bytes", where=(commit.place, file.path))
    if manifest is None:
        log.info("%s: no manifest of this program: all its files are fetched", commit.place)
        if not there:
            raise BadInput("holds no files", where=commit.place, hint="check the name")
        return sorted(there.values(), key=lambda f: f.path)
    for expected in manifest.files:
        remote = there.get(expected.path)
        if (
            remote is None
            or remote.size != expected.size
            or remote.sha256 not in ("", expected.sha256)
        ):
            raise HubMismatch(
                "is not the file that the manifest lists" if remote else "is not there",
                where=(commit.place, expected.path),
                hint="ask who published it; nothing was fetched",
            )
    names = {MANIFEST, *(f.path for f in manifest.files), *(n for n in BESIDE if n in there)}
    return [there[n] for n in sorted(names)]


def _fetch(
    commit: Commit, file: Remote, listed: str | None, staging: Staging, progress: Progress
) -> None:
    """Into the cache, from there into the staging folder, hashed as it is copied."""
    bring(commit, file, progress)
    path = commit.local(file)
    size, sha256 = copy_file(staging, file.path, path)
    if size != file.size:
        raise mismatch(commit, file, f"is {size} bytes, the Hub announced {file.size}")
    for announced in (file.sha256, listed):
        if announced and sha256 != announced:
            raise mismatch(commit, file, f"has sha256 {sha256}, expected {announced}")
    if not file.sha256 and file.blob and git_hash(fs.read_small(path)) != file.blob:
        raise mismatch(commit, file, f"is not git's {file.blob}, which the Hub announced")
