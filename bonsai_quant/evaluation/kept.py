"""A folder with the judgements of a score's pictures, so that an interrupted score can go on."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bonsai_quant.core.errors import BadInput, OutputExists
from bonsai_quant.core.version import TOOL, __version__
from bonsai_quant.packs.fingerprint import fingerprint
from bonsai_quant.packs.pipeline import Pipeline
from bonsai_quant.runners.png import encode_png
from bonsai_quant.storage import fs
from bonsai_quant.storage.folder import lock, open_folder
from bonsai_quant.storage.small_file import PART, clear_parts, make_folder, write_file
from bonsai_quant.storage.strict_json import read_json

from .judging import Judged
from .task import Task

SETTINGS = "settings.json"
log = logging.getLogger(__name__)


def purpose(pipelines: Sequence[Pipeline], task: Task, batch: int) -> dict[str, Any]:
    """All that the judgements depend on. batch: the last bit of a pixel may depend on it."""
    prompts = "\n".join(p.text for p in task.prompts)
    return {
        "models": [fingerprint(p) for p in pipelines],
        "split": task.split,
        "prompts_per_category": task.per_category,
        "images_per_prompt": task.images,
        "seed": task.seed,
        "batch": batch,
        **task.benchmark.model_dump(),
        "captions_sha256": hashlib.sha256(prompts.encode()).hexdigest(),
        "made_by": f"{TOOL} {__version__}",
    }


class Kept:
    """The folder: settings.json, and a file for each batch of each model, whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def opened(self, wanted: dict[str, Any], *, resume: bool) -> Iterator[None]:
        """Make the folder, or refuse what it holds, and keep other runs out of it meanwhile."""
        self._check(wanted, resume)
        make_folder(self.folder)
        with fs.explained(self.folder, "opening the folder"):
            fd = open_folder(self.folder)
        try:
            lock(fd, self.folder)
            clear_parts(fd, self.folder)
            text = json.dumps(wanted, indent=1).encode()
            write_file(self.folder / SETTINGS, text, overwrite=resume)
            yield
        finally:
            os.close(fd)

    def _check(self, wanted: dict[str, Any], resume: bool) -> None:
        there = os.listdir(self.folder) if os.path.lexists(self.folder) else []
        if all(PART.fullmatch(name) for name in there):
            if resume:
                log.warning("%s: nothing there to resume; starting from the beginning", self.folder)
            return
        path = self.folder / SETTINGS
        if not path.is_file():
            raise OutputExists(
                "holds other files than those of a score",
                where=str(self.folder),
                hint="name another folder",
            )
        if not resume:
            raise OutputExists(
                "holds an earlier score",
                where=str(self.folder),
                hint="pass --resume to go on with it, or name another folder",
            )
        found = read_json(path)
        found = found if isinstance(found, dict) else {}
        for key in {**wanted, **found}:
            if found.get(key) != wanted.get(key):
                raise OutputExists(
                    f"was begun with other {key}: {_short(found.get(key))}, "
                    f"not {_short(wanted.get(key))}",
                    where=str(self.folder),
                    hint="ask for the same, or name another folder",
                )

    def of(self, model: int) -> KeptModel:
        """The batches of one of the models."""
        return KeptModel(self.folder, model)


class KeptModel:
    """The batches of one model: a `Keeper`."""

    def __init__(self, folder: Path, model: int) -> None:
        self.folder, self.model = folder, model

    def _path(self, at: int) -> Path:
        return self.folder / f"model{self.model}-{at:07d}.json"

    def find(self, at: int, n: int) -> Judged | None:
        """The batch of n pictures from `at`; None when it is not there, or damaged."""
        path = self._path(at)
        if not path.exists():
            return None
        try:
            return _read(read_json(path), n)
        except (BadInput, KeyError, TypeError, ValueError, OSError) as e:
            log.warning("%s cannot be read, and is painted again: %s", path, e)
            return None

    def add(self, at: int, judged: Judged) -> None:
        """Write a batch."""
        shown = {str(i): _encoded(p) for i, p in judged.shown.items()}
        record = {"own": judged.own, "chance": judged.chance, "shown": shown}
        write_file(self._path(at), json.dumps(record).encode(), overwrite=True)


def _read(record: Any, n: int) -> Judged:
    own, chance = record["own"], record["chance"]
    marks = [[(bool(p), float(s), str(f)) for p, s, f in part or ()] for part in (own, chance)]
    if any(len(part) != n for part in marks[: 1 if chance is None else 2]):
        raise ValueError(f"it does not hold {n} pictures")
    shown = {int(i): _decoded(text) for i, text in record["shown"].items()}
    return Judged(marks[0], None if chance is None else marks[1], shown)


def _encoded(picture: np.ndarray) -> str:
    return base64.b64encode(encode_png(picture)).decode()


def _decoded(text: str) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB"))


def _short(value: object) -> str:
    return repr(value)[:80]
