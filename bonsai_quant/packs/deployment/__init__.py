"""What a pack's folder holds beside its transformer, so that it is all that a client needs.

One file per format; a format that is not here holds the transformer alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from bonsai_quant.sources.components import Components

from . import diffusers, encoder_file, gemlite, mlx
from .contents import Beside, Deployment
from .hqq_process import child_bytes as hqq_bytes

DEPLOYMENTS: Mapping[str, Callable[[Components], Deployment]] = {
    "diffusers": diffusers.with_plugin,
    "gemlite": gemlite.deployment,
    "mlx": mlx.deployment,
    "sdnq": diffusers.with_sdnq,
}


def deployments(parts: Components | None, formats: Sequence[str]) -> dict[str, Deployment]:
    """What goes beside the transformer, by format; nothing where there are no parts."""
    return {f: DEPLOYMENTS[f](parts) for f in formats if parts and f in DEPLOYMENTS}


def work_bytes(deployment: Deployment, threads: int) -> int:
    """Bytes that this process holds while it writes a deployment."""
    made = deployment.encoder
    if made is None or made.scheme is None:
        return 0
    return encoder_file.memory(made.scheme, made.encoder, threads)


def child_bytes(deployment: Deployment) -> int:
    """About what a child process takes that makes the text encoder; 0 where there is none."""
    made = deployment.encoder
    return hqq_bytes(made.encoder) if made and made.scheme is None else 0


__all__ = ["DEPLOYMENTS", "Beside", "Deployment", "child_bytes", "deployments", "work_bytes"]
