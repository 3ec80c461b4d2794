"""Files in the Hub client's cache: bring, check, discard."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from bonsai_quant.core.errors import EnvironmentFault, HubMismatch, HubUnavailable
from bonsai_quant.core.progress import Progress, no_progress
from bonsai_quant.core.version import TOOL, __version__
from bonsai_quant.storage.disk import free_bytes

from . import client, failures
from .listing import Commit, Remote, cache_folder
from .told_bytes import ToldBytes

log = logging.getLogger(__name__)

ABSENT = (0, 0, 0, 0)
"""Identity of a file that is not on this machine yet; equals that of no real file."""


def discard(path: Path) -> None:
    """Remove a file from the Hub's cache: its link, the blob behind it, and nothing elsewhere."""
    blob = path.parent / os.readlink(path) if path.is_symlink() else path
    shared = Path(os.path.realpath(path))  # blobs of several repos can be one file
    for each in (shared, blob, path):
        if Path(os.path.realpath(each.parent)).is_relative_to(cache_folder()):
            with suppress(OSError):
                each.unlink(missing_ok=True)


def git_hash(data: bytes) -> str:
    """The name that git gives to a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def check_small(data: bytes, commit: Commit, file: Remote) -> None:
    """Compare a small file with the hash that git gave it, or the large-file store."""
    digest = hashlib.sha256(data).hexdigest() if file.sha256 else git_hash(data)
    announced = file.sha256 or file.blob
    if announced and digest != announced:
        raise mismatch(commit, file, f"has hash {digest}, the Hub announced {announced}")


def mismatch(commit: Commit, file: Remote, what: str) -> HubMismatch:
    """The error for a file that is not the one announced, which leaves the cache by this."""
    discard(commit.local(file))
    return HubMismatch(
        what,
        where=(commit.place, file.path),
        hint="it is out of the cache now: run again to fetch it",
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


def bring(commit: Commit, file: Remote, progress: Progress = no_progress) -> None:
    """Fetch a file into the cache; the client checks its size, not its hash.

    progress: advanced by the file's bytes.
    """
    from huggingface_hub import hf_hub_download

    told = ToldBytes(progress, file.size)

    def call() -> None:
        try:
            hf_hub_download(
                commit.name,
                file.path,
                revision=commit.sha,
                cache_dir=cache_folder(),
                library_name=TOOL,
                library_version=__version__,
                tqdm_class=told.bar(),
            )
        except (RuntimeError, ValueError) as e:  # of the transfer protocol
            what = f"could not be fetched: {failures.scrubbed(e)}"
            raise HubUnavailable(
                what, where=(commit.place, file.path), hint=failures.AGAIN
            ) from None

    log.info("%s: fetching %s, %d bytes", commit.place, file.path, file.size)
    client.patiently(call, f"{commit.place}: {file.path}")
    told.end()
