"""The contents of a deployment, before anything is written, and what was written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bonsai_quant.core.schema import FileRecord
from bonsai_quant.packs.source_record import SourceFileRecord
from bonsai_quant.sources.components import (
    CLASS,
    INDEX,
    NEEDED_LAYERS,
    ComponentFile,
    Components,
    TextEncoder,
)
from bonsai_quant.sources.shards import INDEX_SUFFIX

from .scheme import WHOLE, Scheme


@dataclass(frozen=True, slots=True)
class MadeEncoder:
    """A text encoder to be made.

    scheme: how it is stored; None where hqq makes the file.
    size: of the weight file at `path`; hqq's is about that.
    encoder: what of the source goes into it.  files: of the source, which are read for it.
    """

    scheme: Scheme | None
    path: str
    size: int
    encoder: TextEncoder
    files: tuple[ComponentFile, ...]

    @property
    def folder(self) -> str:
        """Its folder."""
        return self.path.rpartition("/")[0]


@dataclass(frozen=True, slots=True)
class Deployment:
    """What stands beside a transformer, by path in the pack's folder.

    copies: files of the source.  small: contents made here.  encoder: None where it is copied.
    """

    copies: Mapping[str, ComponentFile]
    small: Mapping[str, bytes]
    encoder: MadeEncoder | None

    @property
    def source_bytes(self) -> int:
        """Bytes that are read for it."""
        read_files = self.encoder.files if self.encoder else ()
        return sum(f.size for f in (*self.copies.values(), *read_files))

    def sizes(self) -> list[tuple[str, int, bool]]:
        """Path, bytes, and whether that is exact, of every file."""
        sizes = [(path, f.size, True) for path, f in self.copies.items()]
        sizes += [(path, len(data), True) for path, data in self.small.items()]
        if self.encoder is not None:
            by_hqq = self.encoder.scheme is None
            sizes.append((self.encoder.path, self.encoder.size, not by_hqq))
            if by_hqq:  # which writes the config, too
                sizes.append((f"{self.encoder.folder}/config.json", 0, False))
        return sorted(sizes)


@dataclass(frozen=True, slots=True)
class Beside:
    """What was written beside a transformer. read: the source's files that it was made from."""

    files: tuple[FileRecord, ...] = ()
    read: tuple[SourceFileRecord, ...] = ()


def encoder_files(parts: Components) -> tuple[ComponentFile, ...]:
    """The text encoder's config, index and weights, which a maker reads."""

    def is_read(file: ComponentFile) -> bool:
        named = file.path.name == "config.json" or file.path.name.endswith(INDEX_SUFFIX)
        return named or file.path in parts.encoder.files

    return tuple(f for f in parts.of("text_encoder") if is_read(f))


def in_16_bits(
    parts: Components,
) -> tuple[MadeEncoder, dict[str, bytes], tuple[ComponentFile, ...]]:
    """A text encoder as it is, but for the layers that nothing reads.

    -> what is to be made, its config, and the other files of its folder.
    """
    encoder, read = parts.encoder.shortened(NEEDED_LAYERS), encoder_files(parts)
    path, size = "text_encoder/model.safetensors", WHOLE.layout(encoder).size
    made = MadeEncoder(WHOLE, path, size, encoder, read)
    others = tuple(f for f in parts.of("text_encoder") if f not in read)
    return made, {"text_encoder/config.json": json_bytes(encoder.config)}, others


def index(parts: Components, *, always: bool) -> dict[str, bytes]:
    """The model_index.json by which clients know the pipeline; its parts are not diffusers' own.

    always: also where it would say nothing that clients do not take for granted.
    """
    if parts.distilled and not always:
        return {}
    pipeline_index: dict[str, Any] = {"_class_name": CLASS, "_diffusers_version": parts.version}
    return {
        INDEX: json_bytes(
            pipeline_index if parts.distilled else pipeline_index | {"is_distilled": False}
        )
    }


def json_bytes(value: Any) -> bytes:
    """JSON as the libraries write it that read these files."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
