"""Checkpoints on the Hub: what a plan needs by range requests, the weights into the Hub's cache."""

from .commit import find_cached, split_id
from .transfer import discard, download, fetch

__all__ = ["discard", "download", "fetch", "find_cached", "split_id"]
