"""What stands under `quantization_config` in a transformer's config."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from diffusers.quantizers.quantization_config import QuantizationConfigMixin

from bonsai_quant.core.errors import Unsupported
from bonsai_quant.core.schema import BITS, GROUP
from bonsai_quant.packs.formats.diffusers import METHOD


class Method(StrEnum):
    """diffusers asks a method for its `value`."""

    BONSAI = METHOD


class BonsaiConfig(QuantizationConfigMixin):  # type: ignore[misc]
    """bits: of a code, 2 or 1.  modules_to_not_convert: linears that are kept in 16 bits.

    Raises Unsupported (4) for what no pack is, and for settings that this version does not know.
    """

    def __init__(
        self,
        bits: int,
        group_size: int = GROUP,
        modules_to_not_convert: Sequence[str] = (),
        quant_method: str = METHOD,
        **unknown: Any,
    ) -> None:
        if unknown:
            raise Unsupported(
                f"has {min(unknown)[:80]!r}, which this version does not know",
                where="quantization_config",
                hint="update bonsai-quant, or export the pack again",
            )
        if bits not in BITS.values() or group_size != GROUP:
            raise Unsupported(
                f"has codes of {bits} bits in groups of {group_size}; codes of 1 or 2 bits in "
                f"groups of {GROUP} are read",
                where="quantization_config",
                hint="export the pack again",
            )
        self.quant_method = Method(quant_method)
        self.bits, self.group_size = bits, group_size
        self.modules_to_not_convert = list(modules_to_not_convert)

    def to_diff_dict(self) -> dict[str, Any]:
        """What diffusers shows of it."""
        shown: dict[str, Any] = self.to_dict()
        return shown
