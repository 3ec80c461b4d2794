"""Packs that commands take by their Hub id: pulled once, pinned to a commit, found when offline."""

from __future__ import annotations

import logging
from pathlib import Path

from bonsai_quant.core.errors import BadInput, HubUnavailable, UsageError
from bonsai_quant.core.progress import Progress, no_progress
from bonsai_quant.hub import client
from bonsai_quant.hub.listing import SHA, cache_folder, check_id, resolve, split_id
from bonsai_quant.storage import fs
from bonsai_quant.storage.small_file import make_folder, write_file

from .pull import pull, read_manifest

log = logging.getLogger(__name__)


def pulled_pack(place: str, *, progress: Progress = no_progress) -> Path:
    """The folder of a pack on the Hub, pulled now if need be. place: `owner/name[@revision]`.

    What a branch is now is asked of the Hub; when it cannot be asked, the commit that was pulled
    last is taken. A repo without a manifest of this program is refused: it may hold anything.
    """
    named = split_id(place)
    if named is None:
        raise UsageError(
            f"{place[:200]!r} is no repo of the Hub", hint="give OWNER/NAME[@REVISION]"
        )
    name, revision = named
    check_id(name, revision)
    if SHA.fullmatch(revision) and _folder(name, revision).is_dir():
        return _folder(name, revision)
    try:
        if client.offline():
            raise HubUnavailable(
                "was not pulled yet, and HF_HUB_OFFLINE is set",
                where=place,
                hint="unset HF_HUB_OFFLINE and run again",
            )
        commit = resolve(name, revision)
    except HubUnavailable:
        sha = _last(name, revision)
        if sha is None:
            raise
        log.warning("%s: the Hub was not asked; commit %s was pulled before", place, sha[:12])
        return _folder(name, sha)
    folder = _folder(name, commit.sha)
    if not folder.is_dir():
        if read_manifest(commit) is None:
            raise BadInput(
                "is no pack of this program",
                where=place,
                hint=f"fetch all of it with `bonsai-quant pull {place}`, and give the folder",
            )
        make_folder(folder.parent)
        pull(f"{name}@{commit.sha}", out=folder, progress=progress)
        log.warning("%s is commit %s, now in %s", place, commit.sha[:12], folder)
    _note(name, revision, commit.sha)
    return folder


def _root(name: str) -> Path:
    """Beside the Hub's own cache, whose layout allows no other folders."""
    return cache_folder().parent / "bonsai-quant" / "packs" / name.replace("/", "--")


def _folder(name: str, sha: str) -> Path:
    """Its last part is the name of the repo, which pictures and tables show."""
    return _root(name) / sha / name.rpartition("/")[2]


def _ref(name: str, revision: str) -> Path:
    return _root(name) / "refs" / (revision.replace("/", "--") or "main")


def _note(name: str, revision: str, sha: str) -> None:
    if revision == sha:
        return
    make_folder(_ref(name, revision).parent)
    write_file(_ref(name, revision), sha.encode(), overwrite=True)


def _last(name: str, revision: str) -> str | None:
    """The commit that a revision was when it was pulled last, if its folder is still there."""
    ref = _ref(name, revision)
    sha = fs.read_small(ref).decode("ascii", "replace").strip() if ref.is_file() else ""
    return sha if SHA.fullmatch(sha) and _folder(name, sha).is_dir() else None
