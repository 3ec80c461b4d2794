"""diffusers and transformers are told who loads what says `"quant_method": "bonsai"`."""

from __future__ import annotations

from bonsai_quant.core.errors import EnvironmentFault
from bonsai_quant.core.requirements import DIFFUSERS, install, installed, is_since, require

SINCE = (0, 38)
"""The first version of diffusers with FLUX.2 Klein."""


def register() -> None:
    """Add our quantizers to their tables; EnvironmentFault without diffusers, or an old one."""
    check_packages()
    from diffusers.quantizers import auto as diffusers
    from transformers.quantizers import auto as transformers

    from .config import BonsaiConfig, Method
    from .quantizer import BonsaiQuantizer
    from .text_encoder import FourBitConfig, FourBitQuantizer

    method = Method.BONSAI.value
    diffusers.AUTO_QUANTIZER_MAPPING[method] = BonsaiQuantizer
    diffusers.AUTO_QUANTIZATION_CONFIG_MAPPING[method] = BonsaiConfig
    transformers.AUTO_QUANTIZER_MAPPING[method] = FourBitQuantizer
    transformers.AUTO_QUANTIZATION_CONFIG_MAPPING[method] = FourBitConfig


def check_packages() -> None:
    """Refuse to go on without what diffusers needs to load a quantized model."""
    require(DIFFUSERS, "diffusers")
    present = installed("diffusers") or ""
    if not is_since(present, SINCE):
        wanted = ".".join(map(str, SINCE))
        raise EnvironmentFault(
            f"diffusers {present} has no FLUX.2 Klein; {wanted} or later has",
            hint=install("diffusers"),
        )
