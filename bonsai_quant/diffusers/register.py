"""diffusers is told who loads models whose config says `"quant_method": "bonsai"`."""

from __future__ import annotations

from bonsai_quant.core.errors import EnvironmentFault
from bonsai_quant.core.requirements import RUN, install, installed, require

SINCE = (0, 38)
"""The first version of diffusers with FLUX.2 Klein."""


def register() -> None:
    """Add our quantizer to diffusers' tables; EnvironmentFault without diffusers, or an old one."""
    check_packages()
    from diffusers.quantizers.auto import (
        AUTO_QUANTIZATION_CONFIG_MAPPING,
        AUTO_QUANTIZER_MAPPING,
    )

    from .config import BonsaiConfig, Method
    from .quantizer import BonsaiQuantizer

    AUTO_QUANTIZER_MAPPING[Method.BONSAI.value] = BonsaiQuantizer
    AUTO_QUANTIZATION_CONFIG_MAPPING[Method.BONSAI.value] = BonsaiConfig


def check_packages() -> None:
    """Refuse to go on without what diffusers needs to load a quantized model."""
    require((*RUN, "accelerate"), "run")
    present = installed("diffusers") or ""
    numbers = tuple(int(n) for n in present.split(".")[:2] if n.isdecimal())
    if numbers < SINCE:
        wanted = ".".join(map(str, SINCE))
        raise EnvironmentFault(
            f"diffusers {present} has no FLUX.2 Klein; {wanted} or later has", hint=install("run")
        )
