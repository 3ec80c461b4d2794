"""Where pictures go: a file, a folder with an index, or names made of the prompts."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from bonsai_quant.core.errors import BadInput, OutputExists, UsageError
from bonsai_quant.core.version import TOOL, __version__
from bonsai_quant.packs.picture_facts import read_facts
from bonsai_quant.storage import fs
from bonsai_quant.storage.folder import lock, open_folder
from bonsai_quant.storage.small_file import clear_parts, make_folder, write_file
from bonsai_quant.storage.strict_json import read_json

INDEX = "index.json"
PNG = ".png"
MAX_NAME = 60
"""Letters of a prompt in a file's name."""
Wish = tuple[str, int]
"""A prompt and a seed."""
log = logging.getLogger(__name__)


class Album:
    """The files of the pictures that are asked for. A picture is written whole or not at all.

    files: one for each wish.  entries: those of the index, by file name.
    """

    def __init__(
        self, out: Path | None, wishes: Sequence[Wish], *, overwrite: bool, resume: bool, steps: int
    ) -> None:
        """Refuse, before anything is loaded, what would write over something.

        out: FILE.png, a folder, or None for names of their own in the current folder.
        steps: pictures of steps beside each one.
        """
        self.folder = out if out is not None and not out.suffix else None
        self.overwrite, self.resume = overwrite, resume
        self.entries: dict[str, dict[str, Any]] = {}
        self.files = _names(wishes, resume) if out is None else _files(out, len(wishes))
        for file in () if resume or overwrite else self.files:
            for path in (file, *(step_file(file, i + 1) for i in range(steps))):
                if os.path.lexists(path):
                    raise OutputExists("exists already", where=str(path), hint=self._hint)
        if self.folder is not None and (self.folder / INDEX).exists():
            self.entries = _read_index(self.folder / INDEX)

    @property
    def _hint(self) -> str:
        resume = "pass --resume to go on with it, or " if self.folder is not None else ""
        return f"{resume}pass --overwrite, or name another output"

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Make the folder, and keep other runs out of it meanwhile."""
        make_folder(self.files[0].parent)
        if self.folder is None:
            yield
            return
        with fs.explained(self.folder, "opening the folder"):
            fd = open_folder(self.folder)
        try:
            lock(fd, self.folder)
            clear_parts(fd, self.folder)
            if not self.resume:
                self.entries = {}
            yield
        finally:
            os.close(fd)

    def left(self, facts: Sequence[dict[str, Any]]) -> list[int]:
        """Which pictures are still to be painted; refuses those that other settings made.

        facts: of each picture, as its file would say them.
        """
        if not self.resume:
            return list(range(len(self.files)))
        return [i for i, f in enumerate(self.files) if not self._is_there(f, facts[i])]

    def _is_there(self, file: Path, wanted: dict[str, Any]) -> bool:
        if not os.path.lexists(file):
            return False
        listed = self.entries.get(file.name, {}).get("sha256")
        try:
            data, facts = fs.read_small(file, 256 << 20), read_facts(file)
        except BadInput as e:
            if listed is None:
                raise
            log.warning("%s: it is painted again", e)
            return False
        digest = hashlib.sha256(data).hexdigest()
        if listed not in (None, digest):
            log.warning("%s: is not as %s lists it: it is painted again", file, INDEX)
            return False
        for key in sorted({*facts, *wanted}):
            if facts.get(key) != wanted.get(key):
                raise OutputExists(
                    f"was painted with {key} {_short(facts.get(key))}, "
                    f"not {_short(wanted.get(key))}",
                    where=str(file),
                    hint="ask for the same, or name another folder",
                )
        self.entries[file.name] = _entry(file, facts, digest)
        return True

    def add(self, index: int, png: bytes, facts: dict[str, Any]) -> None:
        """Write one picture, then the index of all so far."""
        file = self.files[index]
        again = self.overwrite or (self.resume and file.name in self.entries)
        write_file(file, png, overwrite=again)
        self.entries[file.name] = _entry(file, facts, hashlib.sha256(png).hexdigest())
        self.write_index()

    def add_steps(self, index: int, pngs: Sequence[bytes]) -> None:
        """Write the pictures of the steps of one picture, before itself."""
        for i, png in enumerate(pngs):
            path = step_file(self.files[index], i + 1)
            write_file(path, png, overwrite=self.overwrite or self.resume)

    def write_index(self) -> None:
        """Write what is in the folder, in the order of the names."""
        if self.folder is None:
            return
        pictures = [self.entries[name] for name in sorted(self.entries)]
        index = {"schema_version": 1, "made_by": f"{TOOL} {__version__}", "pictures": pictures}
        text = json.dumps(index, indent=1, ensure_ascii=False).encode()
        write_file(self.folder / INDEX, text, overwrite=True)


def step_file(file: Path, step: int) -> Path:
    """Where the picture that a step foresees goes."""
    return file.with_name(f"{file.stem}.step{step}{PNG}")


def _files(out: Path, n: int) -> list[Path]:
    if n == 1 and out.suffix.lower() == PNG:
        return [out]
    if out.suffix:
        raise UsageError(
            f"{out} is no folder for {n} pictures" if n > 1 else f"{out} is no .png file",
            hint="name a folder, or FILE.png for a single picture",
        )
    return [out / f"{i:04d}{PNG}" for i in range(n)]


def _names(wishes: Sequence[Wish], resume: bool) -> list[Path]:
    """PROMPT-SEED.png in the current folder, with a number where that is taken.

    resume: what is there may be what is wanted, and is looked at later.
    """
    taken: dict[str, None] = {}
    for prompt, seed in wishes:
        words = re.sub(r"[\W_]+", "-", prompt.lower())[:MAX_NAME].strip("-") or "picture"
        names = (f"{words}-{seed}{number}{PNG}" for number in _numbers())
        name = next(n for n in names if n not in taken and (resume or not os.path.lexists(n)))
        taken[name] = None
    return [Path(name) for name in taken]


def _numbers() -> Iterator[str]:
    yield ""
    yield from (f"-{i}" for i in count(2))


def _read_index(path: Path) -> dict[str, dict[str, Any]]:
    """The entries of an index of this program; another file of that name is left alone."""
    try:
        data = read_json(path)
        if data["made_by"].startswith(TOOL):
            return {str(e["file"]): dict(e) for e in data["pictures"]}
    except (BadInput, KeyError, TypeError, ValueError, AttributeError):
        pass
    raise OutputExists(
        "is not an index of pictures of this program", where=str(path), hint="name another folder"
    )


def _entry(file: Path, facts: dict[str, Any], digest: str) -> dict[str, Any]:
    return {
        "file": file.name,
        "prompt": facts["prompt"],
        "seed": facts["seed"],
        "width": facts["width"],
        "height": facts["height"],
        "steps": facts["num_inference_steps"],
        "model": facts["model"],
        "sha256": digest,
    }


def _short(value: object) -> str:
    return "none" if value is None else repr(value)[:80]
