"""The files of a pipeline's components that belong in a pack, and those that do not."""

from __future__ import annotations

import logging
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bonsai_quant.core.errors import BadInput, HubMismatch, printable
from bonsai_quant.hub.cache import ABSENT, discard, git_hash
from bonsai_quant.storage import fs
from bonsai_quant.storage.links import refuse_outside

log = logging.getLogger(__name__)

ENDINGS = (".jinja", ".json", ".model", ".safetensors", ".txt")
"""Kinds of files that a component consists of."""
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
"""What a manifest may list."""
PAPERS = re.compile(r"(LICENSE|NOTICE)([._-][A-Za-z0-9._-]*)?")
"""Papers at a pipeline's root that its packs must carry."""
SETTINGS = "benchmark.json"
"""How the pipeline's pictures are made, where it says so."""


Algorithm = Literal["sha256", "git"]
"""Of large files, and of small ones: the sha1 that git computes of a file and its length."""


@dataclass(frozen=True, slots=True)
class ComponentFile:
    """A file of the source beside its transformer.

    name: inside the pipeline's folder.  identity: as `fs.identity`.
    announced: algorithm and hex of the hash that the Hub gives; None for files of this machine.
    """

    name: str
    path: Path
    size: int
    identity: tuple[int, int, int, int]
    announced: tuple[Algorithm, str] | None = None

    def check(self, sha256: str) -> None:
        """Refuse a file that is not what was planned, or not what the Hub announced.

        sha256: hex, of its bytes as they were read.
        """
        with fs.explained(self.path, "looking at it again"):
            now = fs.identity(os.stat(self.path))
        if self.identity not in (ABSENT, now):
            raise fs.changed(self.path)
        if self.announced is None:
            return
        algorithm, announced = self.announced
        digest = git_hash(fs.read_small(self.path)) if algorithm == "git" else sha256
        if digest != announced:
            discard(self.path)
            raise HubMismatch(
                f"has hash {digest}, the Hub announced {announced}",
                where=str(self.path),
                hint="it is out of the cache now: run again to fetch it",
            )


def component_files(root: Path, component: str) -> Iterator[ComponentFile]:
    """The files of one component, in name order; what is left out is logged."""
    for path in sorted((root / component).iterdir()):
        if problem := _unfit(path, root, ENDINGS):
            log.info("%s: is left out: %s", printable(path), problem)
        else:
            yield _component_file(path, root)


def root_files(root: Path) -> Iterator[ComponentFile]:
    """What goes with the components: licence, notices, and the pipeline's settings."""
    for path in sorted(root.iterdir()):
        if not is_paper(path.name):
            continue
        if problem := _unfit(path, root, ("",)):
            log.info("%s: is left out: %s", printable(path), problem)
        else:
            yield _component_file(path, root)


def is_paper(name: str) -> bool:
    """Whether a file at a pipeline's root goes with its components."""
    return name == SETTINGS or PAPERS.fullmatch(name) is not None


def _unfit(path: Path, root: Path, endings: tuple[str, ...]) -> str:
    """Why a file must not go into a pack; "" when it may."""
    if path.name.startswith("."):
        return "it is hidden"
    if not PLAIN_NAME.fullmatch(path.name):
        return "its name is not plain"
    try:
        refuse_outside(path, root)
        info = os.stat(path)
    except (BadInput, OSError) as e:
        return e.what if isinstance(e, BadInput) else "it cannot be read"
    if not stat.S_ISREG(info.st_mode):
        return "it is not a regular file"
    return "" if path.name.endswith(endings) else f"only {', '.join(ENDINGS)} are taken"


def _component_file(path: Path, root: Path) -> ComponentFile:
    info = os.stat(path)
    return ComponentFile(path.relative_to(root).as_posix(), path, info.st_size, fs.identity(info))
