"""Rewrite a model so that it rounds better and computes the same."""

from .fold import Folded, fold

__all__ = ["Folded", "fold"]
