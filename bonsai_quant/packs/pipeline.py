"""What a runner is to run: a pack or not, and the pipeline whose other components it takes.

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
from bonsai_quant.sources.lora import Adapter
from bonsai_quant.sources.remote import cached_pipeline
from bonsai_quant.sources.shipped import find_shipped
from bonsai_quant.storage.strict_json import read_json

from .find import find_packs, look
from .formats import FORMATS
from .read import Pack, open_pack


@dataclass(frozen=True, slots=True)
class Pipeline:
    """What is to be run. folder: that of its components; a pack replaces the transformer there.

    unverified: run a pack whose bytes are not those of its manifest, too.
    loras: that run beside the pack's weights.
    """

    name: str
    folder: Path
    pack: Pack | None
    unverified: bool = False
    loras: tuple[Adapter, ...] = ()

    @property
    def distilled(self) -> bool:
        """Whether the model needs no guidance, and takes none; packs say so only if it does."""
        path = self.folder / INDEX
        index = read_json(path) if path.is_file() else {}
        index = index if isinstance(index, dict) else {}
        return index.get("is_distilled", self.brings_all) is True

    @property
    def brings_all(self) -> bool:
        """Whether the other components are those of a pack: its own, or another's."""
        return look(self.folder).weights is not None and not _is_pipeline(self.folder)

    def part(self, name: str) -> Path:
        """The folder of a component."""
        folders = [self.folder / f for f in PLACES[name]]
        folder = next((f for f in folders if f.is_dir()), None)
        if folder is None:
            raise BadInput(f"has no {name}", where=str(self.folder), hint="pass --pipeline FOLDER")
        return folder

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
        config = read_json(path)
        if not isinstance(config, dict) or not isinstance(config.get("in_channels"), int):
            raise BadInput("has no in_channels", where=str(path), hint="fetch the pipeline again")
        return config


def locate(name: str, *, pipeline: str | None = None, spare: str | None = None) -> Pipeline:
    """A pipeline's folder, a shipped name, or a pack in any format.

    The other components of a pack come from `pipeline`, else from the pack itself if it brings
    them, else from the source that its manifest names, else from `spare`.
    """
    path = Path(name)
    packs = [] if not name or _is_pipeline(path) else find_packs(path)
    if not packs:
        return Pipeline(name, find_pipeline(name), None)
    pack = open_pack(packs[0])
    if pipeline:
        return Pipeline(name, find_pipeline(pipeline), pack)
    if not missing_components(pack.folder):
        return Pipeline(name, pack.folder, pack)
    return Pipeline(name, _source_of(pack) or _spare(spare, pack), pack)


def _is_pipeline(folder: Path) -> bool:
    """Whether a folder is a pipeline as diffusers saves one, and not a pack that has an index."""
    if not (folder / INDEX).exists():
        return False
    name = look(folder).format
    return name is None or FORMATS[name].is_checkpoint


def missing_components(folder: Path) -> list[str]:
    """What a pack's folder lacks to run alone; a scheduler's settings are Klein's anyway."""
    components = ("text_encoder", "tokenizer", "vae")
    return [c for c in components if not any((folder / f).is_dir() for f in PLACES[c])]


def _source_of(pack: Pack) -> Path | None:
    """The pipeline that the manifest names. A name in a file is never a path on this machine."""
    source = pack.manifest.source if pack.manifest else None
    if source is None or source.id is None:
        return _named(source.origin) if source and source.origin else None
    return _named(f"{source.id}@{source.revision}" if source.revision else source.id)


def _spare(spare: str | None, pack: Pack) -> Path:
    if spare is not None:
        return find_pipeline(spare)
    raise UsageError(
        "holds the transformer only, and no name of its source tells where the other parts are",
        where=str(pack.folder),
        hint="pass --pipeline FOLDER with the text encoder, tokenizer, VAE and scheduler",
    )


def find_pipeline(name: str) -> Path:
    """The folder of a pipeline: a path, a shipped name, or a Hub id that the cache holds."""
    if not name or not os.path.lexists(name):
        return _named(name)
    path = Path(name)
    if not _is_pipeline(path):
        packs = [p.path for p in find_packs(path) if not missing_components(p.path)]
        path = packs[0] if packs else path
    if _is_pipeline(path) or missing_components(path):
        check_pipeline(path)
    return path


def _named(name: str) -> Path:
    folder = find_shipped(name) or cached_pipeline(name)
    check_pipeline(folder)
    return folder


def check_pipeline(folder: Path) -> None:
    """Refuse what is no whole pipeline, or one that names classes other than Klein's."""
    path = folder / INDEX
    if not path.is_file():
        raise BadInput(
            f"is no pack and no pipeline: it has no {INDEX}",
            where=str(folder),
            hint="give a pack, or a pipeline folder as diffusers saves it",
        )
    index = read_json(path)
    if not isinstance(index, dict) or index.get("_class_name") != CLASS:
        name = str(index.get("_class_name") if isinstance(index, dict) else index)[:80]
        raise Unsupported(f"is for {name!r}, not {CLASS}", where=str(path), hint="give another")
    for component, classes in CLASSES.items():
        _check_component(path, component, classes, index.get(component))


def _check_component(path: Path, name: str, classes: tuple[str, ...], entry: Any) -> None:
    # diffusers imports whatever module the file names: only the expected ones may stand there.
    library = "transformers" if name in ("text_encoder", "tokenizer") else "diffusers"
    if entry not in [[library, c] for c in classes]:
        raise Unsupported(
            f"names {str(entry)[:80]} as {name}, not {' or '.join(classes)} of {library}",
            where=str(path),
            hint="give a pipeline of FLUX.2 Klein",
        )
    if name != "transformer" and not (path.parent / name).is_dir():
        raise BadInput("is missing", where=(path.parent, name), hint="fetch it again")
