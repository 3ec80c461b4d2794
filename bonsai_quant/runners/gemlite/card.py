"""Whether gemlite's kernels can run here: packages, versions, the card."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bonsai_quant.core.errors import EnvironmentFault
from bonsai_quant.core.requirements import GEMLITE, RUN, install, installed, require

from . import interpreted

if TYPE_CHECKING:
    import torch

SINCE, BEFORE = (0, 6), (0, 7)
"""Versions of gemlite whose functional forward takes the arguments that are given here."""
CAPABILITY = (8, 0)
"""The first cards that multiply in bfloat16."""
OTHERWISE = "pass --backend torch"


def check_gemlite() -> None:
    """Refuse to go on without gemlite, or with one that is too old or too new."""
    require(RUN, "run")
    require(GEMLITE, "gemlite")
    version = installed("gemlite") or ""
    numbers = tuple(int(n) for n in version.split(".")[:2] if n.isdecimal())
    if numbers < SINCE:
        raise EnvironmentFault(
            f"gemlite {version} is too old; 0.6 is called here", hint=install("gemlite")
        )
    if numbers >= BEFORE:
        raise EnvironmentFault(
            f"gemlite {version} is too new; 0.6 is called here",
            hint=f"pip install 'gemlite>=0.6,<0.7', or {OTHERWISE}",
        )


def open_card() -> torch.device:
    """The device, with gemlite imported for it; the CPU where kernels are to be interpreted."""
    check_gemlite()
    import torch

    if interpreted.is_asked_for():
        interpreted.stand_in()
        if problem := interpreted.too_old():
            raise EnvironmentFault(problem, hint=OTHERWISE)
        device = torch.device("cpu")
    else:
        _check_card()
        device = torch.device("cuda")
    _import(device)
    return device


def has_card() -> bool:
    """Whether there is a card that suits, without a word."""
    try:
        _check_card()
    except EnvironmentFault:
        return False
    return True


def _check_card() -> None:
    import torch

    if torch.version.cuda is None:
        raise EnvironmentFault(
            f"torch {torch.__version__} is built without CUDA",
            hint=f"install a torch with CUDA, or {OTHERWISE}",
        )
    if not torch.cuda.is_available():
        raise EnvironmentFault("no CUDA device: gemlite needs an NVIDIA GPU", hint=OTHERWISE)
    capability = torch.cuda.get_device_capability()
    if capability < CAPABILITY:
        name, found = torch.cuda.get_device_name(), ".".join(map(str, capability))
        raise EnvironmentFault(
            f"{name} has compute capability {found}, without bfloat16 (8.0)", hint=OTHERWISE
        )


def _import(device: torch.device) -> None:
    """Import it, quietly, and let kernels that add up parts do so in float32."""
    import logging

    logging.getLogger("gemlite").setLevel(logging.ERROR)
    try:
        import gemlite
    except (ImportError, AttributeError, RuntimeError) as e:
        raise EnvironmentFault(f"gemlite does not import: {e}", hint=install("gemlite")) from e
    gemlite.set_native_atomic_bfp16(False)
