"""Checkpoints on the Hub: what a plan needs by range requests, the weights into the Hub's cache."""

from .transfer import discard, download, fetch

__all__ = ["discard", "download", "fetch"]
