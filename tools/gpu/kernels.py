"""Level kernel of `verify`, with gemlite's real kernels, on the packs that ship."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from bonsai_quant import export, verify
from bonsai_quant.verification.levels.check import Check


def verified(packs: Sequence[str]) -> list[tuple[str, Check]]:
    """(pack, check) of each pack's layers, turned into gemlite's format in a folder that goes."""
    found: list[tuple[str, Check]] = []
    with tempfile.TemporaryDirectory(prefix="bonsai-gpu-") as scratch:
        for k, pack in enumerate(packs):
            out = Path(scratch) / str(k)
            export(pack, format="gemlite", out=out)
            verdict = verify(out, level="kernel", backends=("gemlite",))
            found += [(pack, c) for c in verdict.checks if c.level == "kernel"]
    return found
