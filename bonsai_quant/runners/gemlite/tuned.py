"""What gemlite's autotuning found, kept between runs for each card and version of gemlite.

A file of the user's cache, and of no pack: it says how fast a card is, and nothing about weights.
That of a pack is never given to gemlite: it may come from anybody, and blocks that do not fit a
layer's groups give wrong numbers without an error.
"""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bonsai_quant.core.errors import BonsaiError
from bonsai_quant.core.requirements import installed
from bonsai_quant.storage import fs
from bonsai_quant.storage.small_file import make_folder, write_file
from bonsai_quant.storage.strict_json import strict_json

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)


def folder() -> Path:
    """XDG_CACHE_HOME/bonsai-quant/gemlite, by default below ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    home = Path(base) if Path(base).is_absolute() else Path.home() / ".cache"
    return home / "bonsai-quant" / "gemlite"


def file_of(card: str, version: str) -> Path:
    """The file of a card, by the name that its driver gives it."""
    name = re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-")
    return folder() / re.sub(r"[^0-9A-Za-z.]+", "-", version) / f"{name or 'card'}.json"


def load(device: torch.device) -> None:
    """Give gemlite what an earlier run kept, if there is anything and it is what gemlite writes."""
    if device.type != "cuda":
        return
    path = _here()
    if not path.exists():
        return
    try:
        _checked(bytes(fs.read_small(path)))
    except (BonsaiError, ValueError) as e:
        log.warning("%s is passed over: %s", path, e)
        return
    import gemlite

    gemlite.load_config(str(path))


def keep(device: torch.device) -> None:
    """Write what gemlite has tuned by now, if that is more than was kept."""
    if device.type != "cuda":
        return
    import gemlite

    with tempfile.TemporaryDirectory(prefix="bonsai-gemlite-") as scratch:
        written = Path(scratch) / "tuned.json"
        gemlite.cache_config(str(written))
        data = json.dumps(strict_json(written.read_bytes()), sort_keys=True).encode()
    path = _here()
    try:
        if path.exists() and bytes(fs.read_small(path)) == data:
            return
        make_folder(path.parent)
        write_file(path, data, overwrite=True)
    except BonsaiError as e:
        log.warning("what gemlite tuned is not kept: %s", e)
        return
    log.info("kept what gemlite tuned in %s", path)


def _here() -> Path:
    import torch

    return file_of(torch.cuda.get_device_name(), installed("gemlite") or "")


def _checked(data: bytes) -> dict[str, dict[str, dict[str, Any]]]:
    """kernel -> shape -> block sizes; ValueError for anything else."""
    kernels = strict_json(data)
    if not isinstance(kernels, dict):
        raise ValueError("it is no object")
    for shapes in kernels.values():
        if not isinstance(shapes, dict):
            raise ValueError("a kernel has no shapes")
        for blocks in shapes.values():
            numbers = isinstance(blocks, dict) and all(
                v is None or isinstance(v, int) for v in blocks.values()
            )
            if not numbers:
                raise ValueError(f"a shape has {json.dumps(blocks)[:60]}")
    return kernels
