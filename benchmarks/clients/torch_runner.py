"""The torch runner of this program, its linears packed."""

from __future__ import annotations

from pathlib import Path

from bonsai_quant.packs.read import open_pack
from bonsai_quant.runners.sampling import Velocity
from bonsai_quant.runners.torch.transformer import packed_transformer

from .dense import velocity_by


def open_velocity(pack: Path) -> Velocity:
    """All pictures at once, in float32."""
    return velocity_by(packed_transformer(open_pack(pack)))
