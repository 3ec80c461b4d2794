"""Bringing files to a branch of the Hub: one commit, and the other side compared afterwards.

The commit is the only step that changes what others see. Large files go to the Hub's store before
it, where an interrupted run leaves them and the next one finds them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from bonsai_quant.core.errors import HubConflict, HubDenied, HubMismatch, HubUnavailable
from bonsai_quant.storage import fs

from . import client, failures
from .cache import check_small, git_hash
from .listing import Commit, Remote, resolve

log = logging.getLogger(__name__)

IGNORED = (".gitattributes",)
"""What the Hub itself puts into every repo."""
SHOWN = 5
"""Foreign files that a message lists."""


@dataclass(frozen=True, slots=True)
class Local:
    """A file to publish. path: in the repo.  content: the file here, or the bytes themselves."""

    path: str
    content: Path | bytes
    size: int
    sha256: str

    def blob(self) -> str:
        """The name that git gives a small file."""
        data = self.content if isinstance(self.content, bytes) else fs.read_small(self.content)
        return git_hash(data)


def put(
    repo: str,
    revision: str,
    files: Sequence[Local],
    *,
    message: str,
    ours: Callable[[Commit], Collection[str]],
    into_existing: bool,
) -> tuple[Commit, bool]:
    """Make a branch hold these files; -> its commit, and whether a new one was needed.

    revision: "" for the default branch.  ours: of a commit, the paths that this program may
    replace or remove.  into_existing: leave foreign files where they are, instead of refusing.
    Each try looks first: a commit whose answer was lost is found, not made again.
    """

    def attempt() -> tuple[Commit, bool]:
        before = resolve(repo, revision)
        mine = ours(before)
        if is_there(before, files, mine):
            return before, False
        if not into_existing:
            _check_foreign(before, files, mine)
        sha = _send(before, files, _stale(before, files, mine), message)
        return resolve(repo, sha), True

    return client.patiently(attempt, f"{repo}@{revision}" if revision else repo)


def is_there(commit: Commit, files: Sequence[Local], ours: Collection[str]) -> bool:
    """Whether a commit holds these files, and nothing else of what this program put there."""
    return not _stale(commit, files, ours) and not wrong_remote(commit, files)


def _stale(commit: Commit, files: Sequence[Local], ours: Collection[str]) -> list[str]:
    """What an earlier publication brought and this one does not have."""
    return sorted({f.path for f in commit.files} & set(ours) - {f.path for f in files})


def wrong_remote(commit: Commit, files: Sequence[Local]) -> list[str]:
    """Which of these files are missing or different on the Hub."""
    there = {f.path: f for f in commit.files}
    problems = []
    for file in files:
        if (remote := there.get(file.path)) is None:
            problems.append(f"{file.path}: is missing")
        elif remote.size != file.size:
            problems.append(f"{file.path}: is {remote.size} bytes there, {file.size} here")
        elif not _same(remote, file):
            problems.append(f"{file.path}: has another hash there")
    return problems


def check_remote(commit: Commit, files: Sequence[Local]) -> None:
    """Compare every file with what the Hub now says it holds."""
    if problems := wrong_remote(commit, files):
        raise HubMismatch(
            f"the Hub holds something else than was sent: {problems[0]}",
            where=f"{commit.name}@{commit.sha}",
            hint="delete the repo or revert the commit on its page, then publish again",
        )


def read_remote(commit: Commit, path: str) -> bytes | None:
    """A small file of a commit, checked against its hash; None when it is not there."""
    file = next((f for f in commit.files if f.path == path), None)
    if file is None:
        return None
    data = client.patiently(
        lambda: client.read_range(commit.name, commit.sha, path, 0, file.size), commit.place
    )
    check_small(data, commit, file)
    return data


def _same(remote: Remote, file: Local) -> bool:
    return remote.sha256 == file.sha256 if remote.sha256 else remote.blob == file.blob()


def _check_foreign(commit: Commit, files: Sequence[Local], ours: Collection[str]) -> None:
    mine = {f.path: f for f in files}
    foreign = sorted(
        f.path
        for f in commit.files
        if f.path not in {*ours, *IGNORED} and not (f.path in mine and _same(f, mine[f.path]))
    )
    if foreign:
        more = f" and {len(foreign) - SHOWN} more" if len(foreign) > SHOWN else ""
        raise HubConflict(
            f"holds files of others: {', '.join(foreign[:SHOWN])}{more}",
            where=commit.place,
            hint="choose another repo; --into-existing keeps them, and replaces those of our names",
        )


def _send(parent: Commit, files: Sequence[Local], stale: Sequence[str], message: str) -> str:
    """One commit on top of `parent`; -> its sha."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete
    from huggingface_hub.errors import HTTPError

    changes: list[Any] = [CommitOperationDelete(path) for path in stale]
    for file in files:
        add = CommitOperationAdd(file.path, file.content)
        add.upload_info.sha256 = bytes.fromhex(file.sha256)  # verified, so not hashed once more
        changes.append(add)
    try:
        commit = client.api().create_commit(
            parent.name,
            changes,
            commit_message=message,
            revision=parent.revision or None,
            parent_commit=parent.sha,
        )
        return str(commit.oid)
    except HTTPError:
        raise
    except (RuntimeError, ValueError, KeyError, TypeError) as e:
        _refused(e, parent.place)


def _refused(e: Exception, place: str) -> NoReturn:
    """What the client says in exceptions of its own: an upload that failed, a refused file."""
    cause: BaseException | None = e
    while cause is not None and not hasattr(cause, "response"):
        cause = cause.__cause__
    if cause is not None:
        _store_said(cause, place)
    if isinstance(e, json.JSONDecodeError | KeyError | TypeError):
        raise HubUnavailable(
            "what answers is not a Hub", where=place, hint=failures.AGAIN
        ) from None
    if isinstance(e.__cause__, OSError):
        raise e.__cause__
    text = " ".join(str(e).split())
    if "LFS batch" in text:
        raise HubDenied(
            f"the Hub refuses a file: {failures.scrubbed(text.rpartition(': ')[2])}",
            where=place,
            hint="see the limits of your account, or ask the owner of the repo",
        ) from None
    raise HubUnavailable(failures.scrubbed(text), where=place, hint=failures.AGAIN) from None


def _store_said(cause: Any, place: str) -> NoReturn:
    """Statuses of the store: there 403 is an address that is too old, not a lack of rights."""
    status = cause.response.status_code
    if cause.response.request.method == "PUT" and status in (400, 403):
        raise HubUnavailable(
            f"the store answered {status}: the upload took too long, or its address is wrong",
            where=place,
            hint="run again: what is there already is not sent again",
        ) from None
    if status == 422:
        raise HubMismatch(
            f"the Hub received other bytes than were sent: {failures.scrubbed(cause)}",
            where=place,
            hint="run again",
        ) from None
    raise cause
