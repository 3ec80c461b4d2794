"""Whether a calibration is of a source."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bonsai_quant.core.errors import BadInput


def check_same_source(folder: Path, known: Mapping[str, str], digests: Mapping[str, str]) -> None:
    """Refuse a calibration of another model. known, digests: sha256 of files, by name."""
    if dict(digests) != dict(known):
        raise BadInput(
            "was made with another source: its files have other hashes",
            where=str(folder),
            hint="calibrate this source",
        )
