"""The Hub: a plan's headers by range requests, weights into its cache, packs in both directions."""

from .commit import Commit, Remote, find_cached, resolve, split_id
from .repo import check_login, find_or_open_request, open_repo
from .transfer import (
    ABSENT,
    bring,
    check_cache_room,
    check_small,
    discard,
    download,
    fetch,
    git_hash,
    mismatch,
)
from .upload import Local, check_remote, is_there, put, read_remote

__all__ = [
    "ABSENT",
    "Commit",
    "Local",
    "Remote",
    "bring",
    "check_cache_room",
    "check_login",
    "check_remote",
    "check_small",
    "discard",
    "download",
    "fetch",
    "find_cached",
    "find_or_open_request",
    "git_hash",
    "is_there",
    "mismatch",
    "open_repo",
    "put",
    "read_remote",
    "resolve",
    "split_id",
]
