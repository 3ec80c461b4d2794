"""What a runner is to run: a pack or not, and the pipeline whose other parts it takes.

Everything is looked for on this machine. Nothing is fetched.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bonsai_quant.core.errors import BadInput, Unsupported, UsageError
from bonsai_quant.sources.components import CLASS, INDEX
from bonsai_quant.sources.components.layout import CLASSES, PLACES
from bonsai_quant.sources.remote import cached_pipeline
from bonsai_quant.sources.shipped import find_shipped
from bonsai_quant.storage.strict_json import read_json

from .find import find_packs, weight_file
from .read import Pack, open_pack


@dataclass(frozen=True, slots=True)
class Pipeline:
    """What is to be run. pipeline: the folder of its parts; a pack replaces the transformer there.

    unverified: run a pack whose bytes are not those of its manifest, too.
    """

    name: str
    pipeline: Path
    pack: Pack | None
    unverified: bool = False

    @property
    def distilled(self) -> bool:
        """Whether the model needs no guidance, and takes none; packs say so only if it does."""
        index = self.pipeline / INDEX
        said = read_json(index) if index.is_file() else {}
        said = said if isinstance(said, dict) else {}
        return said.get("is_distilled", self.brings_all) is True

    @property
    def brings_all(self) -> bool:
        """Whether the other parts are those of a pack: its own, or another's."""
        return weight_file(self.pipeline) is not None and not _is_pipeline(self.pipeline)

    def part(self, name: str) -> Path:
        """The folder of a part."""
        folders = [self.pipeline / f for f in PLACES[name]]
        found = next((f for f in folders if f.is_dir()), None)
        if found is None:
            raise BadInput(
                f"has no {name}", where=str(self.pipeline), hint="pass --pipeline FOLDER"
            )
        return found

    @property
    def channels(self) -> int:
        """Channels of a token of the picture."""
        return int(self.config["in_channels"])

    @property
    def config(self) -> dict[str, Any]:
        """The transformer's."""
        if self.pack is not None:
            return self.pack.info.config
        path = self.part("transformer") / "config.json"
        said = read_json(path)
        if not isinstance(said, dict) or not isinstance(said.get("in_channels"), int):
            raise BadInput("has no in_channels", where=str(path), hint="fetch the pipeline again")
        return said


def locate(place: str, *, pipeline: str | None = None, spare: str | None = None) -> Pipeline:
    """A pipeline's folder, a shipped name, or a pack in any format.

    The other parts of a pack come from `pipeline`, else from the pack itself if it brings them,
    else from the source that its manifest names, else from `spare`.
    """
    path = Path(place)
    packs = [] if not place or _is_pipeline(path) else find_packs(path)
    if not packs:
        return Pipeline(place, find_pipeline(place), None)
    pack = open_pack(packs[0])
    if pipeline:
        return Pipeline(place, find_pipeline(pipeline), pack)
    if not missing_parts(pack.folder):
        return Pipeline(place, pack.folder, pack)
    return Pipeline(place, _source_of(pack) or _given(spare, pack), pack)


def _is_pipeline(folder: Path) -> bool:
    """Whether a folder is a pipeline as diffusers saves one, and not a pack that has an index."""
    found = weight_file(folder)
    return (folder / INDEX).exists() and (found is None or found[0] == "unpacked")


def missing_parts(folder: Path) -> list[str]:
    """What a pack's folder lacks to run alone; a scheduler's settings are Klein's anyway."""
    parts = ("text_encoder", "tokenizer", "vae")
    return [p for p in parts if not any((folder / f).is_dir() for f in PLACES[p])]


def _source_of(pack: Pack) -> Path | None:
    """The pipeline that the manifest names. A name in a file is never a path on this machine."""
    said = pack.manifest.source if pack.manifest else None
    if said is None or said.id is None:
        return _named(said.origin) if said and said.origin else None
    return _named(f"{said.id}@{said.revision}" if said.revision else said.id)


def _given(spare: str | None, pack: Pack) -> Path:
    if spare is not None:
        return find_pipeline(spare)
    raise UsageError(
        "holds the transformer only, and no name of its source tells where the other parts are",
        where=str(pack.folder),
        hint="pass --pipeline FOLDER with the text encoder, tokenizer, VAE and scheduler",
    )


def find_pipeline(place: str) -> Path:
    """The folder of a pipeline: a path, a shipped name, or a Hub id that the cache holds."""
    if not place or not os.path.lexists(place):
        return _named(place)
    path = Path(place)
    if not _is_pipeline(path):
        packs = [p for p in find_packs(path) if not missing_parts(p)]
        path = packs[0] if packs else path
    if _is_pipeline(path) or missing_parts(path):
        check_pipeline(path)
    return path


def _named(name: str) -> Path:
    folder = find_shipped(name) or cached_pipeline(name)
    check_pipeline(folder)
    return folder


def check_pipeline(folder: Path) -> None:
    """Refuse what is no whole pipeline, or one that names classes other than Klein's."""
    index = folder / INDEX
    if not index.is_file():
        raise BadInput(
            f"is no pack and no pipeline: it has no {INDEX}",
            where=str(folder),
            hint="give a pack, or a pipeline folder as diffusers saves it",
        )
    said = read_json(index)
    if not isinstance(said, dict) or said.get("_class_name") != CLASS:
        found = str(said.get("_class_name") if isinstance(said, dict) else said)[:80]
        raise Unsupported(f"is for {found!r}, not {CLASS}", where=str(index), hint="give another")
    for part, classes in CLASSES.items():
        _check_part(index, part, classes, said.get(part))


def _check_part(index: Path, part: str, classes: tuple[str, ...], said: Any) -> None:
    # diffusers imports whatever module the file names: only the expected ones may stand there.
    library = "transformers" if part in ("text_encoder", "tokenizer") else "diffusers"
    if not isinstance(said, list) or len(said) != 2 or said[0] != library or said[1] not in classes:
        raise Unsupported(
            f"names {str(said)[:80]} as {part}, not {' or '.join(classes)} of {library}",
            where=str(index),
            hint="give a pipeline of FLUX.2 Klein",
        )
    if part != "transformer" and not (index.parent / part).is_dir():
        raise BadInput("is missing", where=(index.parent, part), hint="fetch it again")
