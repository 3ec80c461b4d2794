"""Whether a source is a whole pipeline, and then its components."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bonsai_quant.core.errors import BadInput, BonsaiError, Unsupported, printable
from bonsai_quant.storage.containers.safetensors import read_header
from bonsai_quant.storage.links import refuse_outside
from bonsai_quant.storage.strict_json import read_json

from .files import ENDINGS, PLAIN_NAME, ComponentFile, component_files, is_paper, root_files
from .layout import CLASS, CLASSES, FOLDERS, INDEX, NEEDED
from .text_encoder import TextEncoder, read_encoder

log = logging.getLogger(__name__)
WITHOUT = "pass --transformer-only"


@dataclass(frozen=True, slots=True)
class Components:
    """The components of a pipeline beside its transformer.

    files: theirs, and what goes with them, in name order.
    distilled: whether the pipeline says that it needs no guidance.  version: diffusers', of its
    index.  tokenizer: its class.
    """

    files: tuple[ComponentFile, ...]
    encoder: TextEncoder
    distilled: bool
    version: str
    tokenizer: str

    def of(self, component: str) -> tuple[ComponentFile, ...]:
        """The files of one component; of "", those at the pipeline's root."""
        return tuple(f for f in self.files if f.name.rpartition("/")[0] == component)


def find_components(root: Path) -> Components | None:
    """The components of the pipeline in a folder; None, and a line in the log, if it has none.

    A pipeline that has some of them must have all of them, and each must be sound.
    """
    index: Any = read_json(root / INDEX) if (root / INDEX).is_file() else None
    has_some = any((root / folder).exists() for folder in FOLDERS)
    if not names_klein(index) or not has_some:
        why = f"no {INDEX} of a {CLASS}" if not names_klein(index) else "no other parts"
        log.info("%s: %s there, so packs hold the transformer only", printable(root), why)
        return None
    files = [f for folder in FOLDERS for f in _component(root, folder)]
    with _naming("text_encoder"):
        encoder = read_encoder(root / "text_encoder")
        _check_taken(encoder, files)
    with _naming("vae"):
        _check_vae(root / "vae")
    distilled, version = index.get("is_distilled") is True, str(index.get("_diffusers_version"))
    tokenizer = _tokenizer(index.get("tokenizer"))
    return Components((*root_files(root), *files), encoder, distilled, version[:40], tokenizer)


def _tokenizer(entry: Any) -> str:
    """The class that an index names; another than the known ones is not handed on."""
    known = CLASSES["tokenizer"]
    name = entry[-1] if isinstance(entry, list) and entry else ""
    return name if name in known else known[0]


def names_klein(index: Any) -> bool:
    """Whether a model_index.json is of the pipeline that this program knows."""
    return isinstance(index, dict) and index.get("_class_name") == CLASS


def is_component_file(name: str) -> bool:
    """Whether a file of this name (inside the pipeline) belongs to its components."""
    folder, _, last = name.rpartition("/")
    if not folder:
        return is_paper(last)
    return folder in FOLDERS and last.endswith(ENDINGS) and bool(PLAIN_NAME.fullmatch(last))


def _component(root: Path, name: str) -> list[ComponentFile]:
    """The files of one component, which must be complete."""
    with _naming(name):
        folder = root / name
        if not folder.is_dir():
            raise BadInput("is missing", where=str(folder), hint="fetch the pipeline again")
        refuse_outside(folder, root)
        files = list(component_files(root, name))
        names = {f.name.rpartition("/")[2] for f in files}
        for needed in NEEDED[name]:
            if needed not in names:
                raise BadInput(
                    f"has no {needed}", where=str(folder), hint="fetch the pipeline again"
                )
    return files


def _check_taken(encoder: TextEncoder, files: list[ComponentFile]) -> None:
    taken = {f.path for f in files}
    if odd := [f for f in encoder.files if f not in taken]:
        raise BadInput("cannot be taken into a pack", where=str(odd[0]), hint="rename it")


def _check_vae(folder: Path) -> None:
    config = read_json(folder / "config.json")
    if not isinstance(config, dict) or config.get("_class_name") != "AutoencoderKLFlux2":
        class_name = config.get("_class_name") if isinstance(config, dict) else config
        raise Unsupported(
            f"is for {str(class_name)[:80]!r}, not AutoencoderKLFlux2",
            where=str(folder / "config.json"),
        )
    read_header(folder / "diffusion_pytorch_model.safetensors")


@contextmanager
def _naming(component: str) -> Iterator[None]:
    """Say in an error which component is broken, and how to do without it."""
    try:
        yield
    except BonsaiError as e:
        e.what = f"{component.replace('_', ' ')}: {e.what}"
        e.hint = f"{e.hint}, or {WITHOUT}" if e.hint else WITHOUT
        raise
