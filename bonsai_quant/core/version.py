"""The version, where the source is, and whether pip finds a release: in this place alone."""

from __future__ import annotations

__version__ = "0.1.0"
TOOL = "bonsai-quant"
REPOSITORY = "https://github.com/bonsai-quant/bonsai-quant"
ON_INDEX = False
"""Whether a release is on the package index, so that `pip install bonsai-quant` finds it."""
