"""One commit of a model on the Hub: its files, as the Hub or the cache lists them."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bonsai_quant.core.errors import BadInput, HubMismatch, HubUnavailable, UsageError

from . import client, failures

log = logging.getLogger(__name__)

MAX_FILES = 100_000
WEIGHTS = ".safetensors"
SHA, SHA256 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Remote:
    """A file of a commit. path: in the repo.  sha256: of a large file.  blob: git's, of a small."""

    path: str
    size: int
    sha256: str
    blob: str

    @property
    def name(self) -> str:
        """Without its folder."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Commit:
    """A model (`org/name`) at one commit. revision: as asked for, "" for the default branch."""

    name: str
    revision: str
    sha: str
    files: tuple[Remote, ...]

    @property
    def place(self) -> str:
        """As a user names it."""
        return _place(self.name, self.revision)

    @property
    def snapshot(self) -> Path:
        """Where the cache holds the files of this commit."""
        return _cache(self.name) / "snapshots" / self.sha

    def local(self, file: Remote) -> Path:
        """Where the cache holds a file, or will."""
        return self.snapshot / file.path


def _place(name: str, revision: str) -> str:
    return f"{name}@{revision}" if revision else name


def split_id(place: str) -> tuple[str, str] | None:
    """`org/name[@revision]` -> name, and revision or ""; None for what is no Hub id."""
    name, sign, revision = place.partition("@")
    plain = re.fullmatch(r"\w[\w.-]*/[\w.-]+", name) and not name.endswith(WEIGHTS)
    return (name, revision) if plain and bool(sign) == bool(revision) else None


def find_cached(name: str, revision: str) -> Path | None:
    """The folder where the cache holds a model at a revision, without asking the Hub."""
    check_id(name, revision)
    sha = _cached_sha(name, revision)
    return _cache(name) / "snapshots" / sha if sha else None


def resolve(name: str, revision: str) -> Commit:
    """The commit that a revision is now: asked of the Hub, or of the cache when offline."""
    check_id(name, revision)
    if not client.offline():
        client.check_endpoint()
        return _ask(name, revision)
    sha = _cached_sha(name, revision)
    if not sha:
        raise HubUnavailable(
            "is not in the cache, and HF_HUB_OFFLINE is set",
            where=_place(name, revision),
            hint="unset HF_HUB_OFFLINE and run again",
        )
    return Commit(name, revision, sha, _cached_files(_cache(name) / "snapshots" / sha))


def remember(commit: Commit) -> None:
    """Note in the cache which commit the revision was, so that it is found when offline."""
    ref = _cache(commit.name) / "refs" / (commit.revision or "main")
    if commit.revision == commit.sha:
        return
    try:
        ref.parent.mkdir(parents=True, exist_ok=True)
        new = ref.with_name(f"{ref.name}.{os.getpid()}.tmp")
        new.write_text(commit.sha)
        new.replace(ref)
    except OSError as e:
        log.info("%s: not noted in the cache: %s", commit.place, e)


def check_id(name: str, revision: str) -> None:
    """Refuse what is no Hub id or no revision; both become parts of paths in the cache."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as e:
        raise UsageError(
            f"{name!r} is not a Hub id: {failures.scrubbed(e)}", hint="give org/name"
        ) from e
    parts = revision.split("/") if revision else []
    if not all(re.fullmatch(r"\w[\w.+-]*", p) and ".." not in p for p in parts):
        raise UsageError(f"{revision!r} is not a revision", hint="give a branch, tag or commit")


def _ask(name: str, revision: str) -> Commit:
    shown = _place(name, revision)
    try:
        info = client.patiently(lambda: client.model_info(name, revision or None), shown)
    except HubUnavailable as e:
        if sha := _cached_sha(name, revision):
            e.hint += f", or set HF_HUB_OFFLINE=1 to use commit {sha[:12]} from the cache"
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as e:
        raise failures.not_a_hub(shown) from e
    if not isinstance(info.sha, str) or not SHA.fullmatch(info.sha):
        raise BadInput("the Hub names no commit", where=shown, hint=failures.AGAIN)
    if SHA.fullmatch(revision) and info.sha != revision:
        raise HubMismatch(f"the Hub answered with commit {info.sha}", where=shown)
    log.info("%s is commit %s", shown, info.sha)
    return Commit(name, revision, info.sha, _listed(info.siblings or [], shown))


def _listed(siblings: list[Any], shown: str) -> tuple[Remote, ...]:
    """The listing, refused as a whole when any name in it could lead outside of a folder."""
    if len(siblings) > MAX_FILES:
        raise BadInput(
            f"lists {len(siblings)} files, more than the {MAX_FILES} allowed", where=shown
        )
    files = []
    for s in siblings:
        path = s.rfilename
        if not isinstance(path, str) or not _is_inside(path):
            raise BadInput(
                f"lists the file {str(path)[:200]!r}, which is not a path inside a repo",
                where=shown,
                hint="do not use this repo",
            )
        large = s.lfs is not None
        size = s.lfs.size if large else s.size
        files.append(Remote(path, size, s.lfs.sha256 if large else "", s.blob_id or ""))
    return tuple(files)


def _is_inside(path: str) -> bool:
    plain = path.isprintable() and "\\" not in path and 0 < len(path) <= 1024
    return plain and not {"", ".", ".."} & set(path.split("/"))


def cache_folder() -> Path:
    """The Hub's own cache (HF_HUB_CACHE, else HF_HOME/hub), shared with other programs."""
    from huggingface_hub import constants

    return Path(os.path.realpath(os.path.expanduser(constants.HF_HUB_CACHE)))


def _cache(name: str) -> Path:
    return cache_folder() / f"models--{name.replace('/', '--')}"


def _cached_sha(name: str, revision: str) -> str:
    """The commit that the cache holds for a revision, "" when there is none."""
    repo, sha = _cache(name), revision
    if not SHA.fullmatch(revision):
        ref = repo / "refs" / (revision or "main")
        sha = ref.read_text().strip() if ref.is_file() else ""
    return sha if SHA.fullmatch(sha) and (repo / "snapshots" / sha).is_dir() else ""


def _cached_files(snapshot: Path) -> tuple[Remote, ...]:
    """What a snapshot holds. A link's target is named after the hash that the Hub announced."""
    files = []
    for path in sorted(snapshot.rglob("*")):
        if path.is_file():
            blob = Path(os.readlink(path)).name if path.is_symlink() else ""
            sha256 = blob if SHA256.fullmatch(blob) else ""
            name = str(path.relative_to(snapshot))
            size = path.stat().st_size
            files.append(Remote(name, size, sha256, blob if SHA.fullmatch(blob) else ""))
    return tuple(files)
