"""Start the child process in which hqq makes a text encoder, and read its answer."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from bonsai_quant.core.child_process import ChildFailed, ask
from bonsai_quant.core.errors import EnvironmentFault
from bonsai_quant.core.numbers import size
from bonsai_quant.core.requirements import install
from bonsai_quant.sources.components import TextEncoder
from bonsai_quant.storage.copy import settle
from bonsai_quant.storage.staging import Staging

CHILD = "bonsai_quant.packs.deployment.hqq_child"
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
AT_REST = 1 << 30
"""Bytes of torch, transformers and hqq, about."""
LONG = 1 << 30
"""Bytes of a text encoder that take hqq long on a CPU: two minutes for each 100 million weights."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Made:
    """What hqq made. config: its config.json."""

    size: int
    sha256: str
    config: bytes


def child_bytes(encoder: TextEncoder) -> int:
    """About what the child takes: hqq holds the whole text encoder in 16 bits."""
    return encoder.stored_bytes + AT_REST


def make(staging: Staging, relative: str, encoder: TextEncoder) -> Made:
    """Let a child write the file at `relative`, and read it back."""
    log.info(
        "%s: made by hqq in a process of its own, in about %s of memory",
        relative, size(child_bytes(encoder)),
    )  # fmt: skip
    if encoder.stored_bytes > LONG and not Path("/proc/driver/nvidia/version").exists():
        log.warning(
            "%s: without a GPU hqq may take more than an hour; --transformer-only, or another "
            "--format, does without it",
            relative,
        )
    staging.discard(relative)
    fd, path = staging.create(relative), staging.path / relative
    try:
        result = _run(encoder.folder, fd, path)
        settle(fd, result.size, result.sha256, path)
    finally:
        os.close(fd)
    return result


def _run(folder: Path, fd: int, path: Path) -> Made:
    arguments = (str(folder.absolute()), str(fd), str(path))
    try:
        answer = ask(CHILD, arguments, environment=OFFLINE, pass_fds=(fd,))
    except ChildFailed as e:
        raise EnvironmentFault(
            f"hqq {e}",
            where=str(folder),
            hint=f"{install('gemlite')}, free memory, or pass --transformer-only",
        ) from e
    return Made(answer["size"], answer["sha256"], answer["config"].encode())
