"""Transport: one commit of a repo on the Hub, listed, brought and sent. Knows files, no models."""

from .cache import ABSENT, bring, check_cache_room, check_small, discard, git_hash, mismatch
from .listing import Commit, Remote, find_cached, resolve, split_id
from .repo import check_login, find_or_open_request, open_repo
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
