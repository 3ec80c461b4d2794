"""manifest.json: what a pack is, what it was made from, and every file of it with its hash."""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pydantic

from .deployment import DEPLOYMENTS
from .errors import BadInput, Unsupported, first_problem
from .license import CARD, License, read_license
from .lora import Adapter
from .recipe import Recipe
from .schema import GROUP, SCHEMA_VERSION, FileRecord, LayerStats, Mode, PackInfo
from .source import Source
from .storage import fs
from .storage.safetensors import strict_json
from .version import TOOL, __version__

NAME = "manifest.json"
GALLERY = "gallery.png"
BESIDE = (CARD, GALLERY)
"""Files of a pack that its manifest does not list: the card, which quotes it, and its pictures."""
MAX_FILES = 10_000
_STRICT = pydantic.ConfigDict(extra="forbid", frozen=True)


class ManifestFile(pydantic.BaseModel):
    """A file of the pack. remote_path is `path` again: existing clients look for that key."""

    model_config = _STRICT
    path: str
    remote_path: str
    size: int = pydantic.Field(ge=0)
    sha256: str = pydantic.Field(pattern=r"^[0-9a-f]{64}$")

    @pydantic.model_validator(mode="after")
    def _plain_path(self) -> ManifestFile:
        parts = self.path.split("/")
        plain = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
        if len(parts) > 8 or not all(plain.fullmatch(p) for p in parts):
            raise ValueError(f"{self.path!r} is not a plain relative path")
        if self.remote_path != self.path:
            raise ValueError("remote_path differs from path")
        return self


class LoraRecord(pydantic.BaseModel):
    """A LoRA that was merged into the source before rounding. name: of its file.

    config: sha256 of the adapter_config.json that says how strong it is.  modules: how many of the
    file's were merged.  ignored: how many were left out, being of no module of the transformer.
    """

    model_config = _STRICT
    name: str
    size: int
    sha256: str
    scale: float
    config: str | None
    modules: int
    ignored: int


class SourceRecord(pydantic.BaseModel):
    """What the pack was made from. id: on the Hub, or of a shipped model; None for local files.

    origin: id, with @revision, of the model that a folded or trained source was made from.
    license: what the source's own card says.  lora: what was merged into it.
    files: of the transformer, with their sha256.  parts: the same of the pipeline's others.
    """

    model_config = _STRICT
    id: str | None
    revision: str | None
    origin: str | None = None
    license: License | None = None
    layout: str
    files: list[dict[str, Any]]
    lora: list[LoraRecord] = []
    parts: list[dict[str, Any]] = []


class Counts(pydantic.BaseModel):
    """Numbers of tensors, weights and groups, and of values that the format could not hold."""

    model_config = _STRICT
    packed: int
    kept: int
    packed_weights: int
    kept_weights: int
    groups: int


class Measured(pydantic.BaseModel):
    """What rounding did. Weights of all packed layers are taken as one vector.

    relative_error: ||w - s t|| / ||w||.  groups_below_grid: whose best scale was too small.
    kept_inexact: kept values that had to be rounded.  lossless: nothing changed at all.
    """

    model_config = _STRICT
    relative_error: float
    groups_below_grid: int
    kept_inexact: int
    lossless: bool


class Manifest(pydantic.BaseModel):
    """manifest.json, schema version 1. calibration: sha256 of the one that guided the solver.

    recipe: without a solver, and source without files, where another program made the pack.
    """

    model_config = _STRICT
    schema_version: Literal[1]
    tool: dict[str, str]
    format: str
    base: str
    mode: Mode
    group_size: Literal[128]
    recipe: dict[str, Any]
    source: SourceRecord
    counts: Counts
    bits_per_weight: float
    measured: Measured | None
    calibration: str | None = None
    files: list[ManifestFile] = pydantic.Field(max_length=MAX_FILES)


def bits_per_weight(format_name: str, info: PackInfo) -> float:
    """Stored bits per packed weight, scales included, kept tensors not."""
    from .formats import FORMATS

    parts = [p for t in info.packed for p in FORMATS[format_name].parts(t, info.bits)]
    weights = sum(t.size for t in info.packed)
    return round(8 * sum(p.nbytes for p in parts) / weights, 6) if weights else 0.0


def build_manifest(
    format_name: str,
    info: PackInfo,
    made: Provenance,
    files: Sequence[FileRecord],
) -> Manifest:
    """The manifest of one format folder, without times or machine names."""
    return Manifest(
        schema_version=1,
        tool={"name": TOOL, "version": __version__},
        format=format_name,
        base=info.base,
        mode=info.mode,
        group_size=128,
        recipe=made.recipe.model_dump(mode="json", exclude_unset=not made.source.files),
        source=made.source,
        counts=Counts(
            packed=len(info.packed),
            kept=len(info.kept),
            packed_weights=sum(t.size for t in info.packed),
            kept_weights=sum(t.size for t in info.kept),
            groups=sum(t.size for t in info.packed) // GROUP,
        ),
        bits_per_weight=bits_per_weight(format_name, info),
        measured=made.measured,
        calibration=made.calibration,
        files=[
            ManifestFile(path=f.path, remote_path=f.path, size=f.size, sha256=f.sha256)
            for f in sorted(files, key=lambda f: f.path)
        ],
    )


@dataclass(frozen=True, slots=True)
class Provenance:
    """How a pack came to be. measured and layers_csv: None when another program made it.

    calibration: sha256 of the calibration.json that guided the solver.
    """

    recipe: Recipe
    source: SourceRecord
    measured: Measured | None
    layers_csv: bytes | None
    calibration: str | None = None


def with_parts(made: Provenance, read: Sequence[Mapping[str, Any]]) -> Provenance:
    """The same, with what was read of the source's other parts: name, size and sha256 each."""
    source = made.source.model_copy(update={"parts": [dict(r) for r in read]})
    return replace(made, source=source) if read else made


def measure(stats: Sequence[LayerStats]) -> Measured:
    """Sum the layers' measurements up."""
    packed = [s for s in stats if s.action != "keep"]
    total = math.fsum(s.energy for s in packed)
    error = math.fsum((s.relative_error or 0.0) ** 2 * s.energy for s in packed)
    inexact = sum(s.inexact for s in stats)
    return Measured(
        relative_error=round(math.sqrt(error / total), 9) if total else 0.0,
        groups_below_grid=sum(s.groups_below_grid for s in stats),
        kept_inexact=inexact,
        lossless=error == 0 and inexact == 0,
    )


def source_record(
    source: Source, digests: dict[str, str], loras: Sequence[Adapter]
) -> SourceRecord:
    """digests: sha256 of every file read, by name."""
    files = [{"name": f.name, "size": f.size, "sha256": digests[f.name]} for f in source.files]
    return SourceRecord(
        id=source.id,
        revision=source.revision,
        origin=source.origin,
        license=read_license(source.root),
        layout=source.model.layout,
        files=files,
        lora=[lora_record(a) for a in loras],
    )


def lora_record(a: Adapter) -> LoraRecord:
    """What a manifest says of a LoRA."""
    return LoraRecord(
        name=os.fsencode(a.path.name).decode("utf-8", "backslashreplace"),
        size=a.size,
        sha256=a.sha256,
        scale=a.scale,
        config=a.config,
        modules=a.modules,
        ignored=len(a.ignored),
    )


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a pack's folder, read strictly."""
    path = folder / NAME
    if not path.exists():
        raise BadInput(
            "has no manifest.json: not a complete pack of this program",
            where=str(folder),
            hint="convert again, or see `inspect`",
        )
    return parse_manifest(fs.read_small(path), str(path))


def parse_manifest(text: bytes, path: str) -> Manifest:
    """The manifest that a text holds. path: for messages."""
    try:
        data = strict_json(text)
        if isinstance(data, dict) and data.get("schema_version", 1) != SCHEMA_VERSION:
            raise Unsupported(
                f"has schema version {data['schema_version']}; this version reads {SCHEMA_VERSION}",
                where=path,
                hint="upgrade bonsai-quant",
            )
        manifest = Manifest.model_validate(data)
    except pydantic.ValidationError as e:
        raise BadInput(first_problem(e), where=path, hint="convert again") from e
    except ValueError as e:
        raise BadInput(f"is not JSON: {e}", where=path, hint="convert again") from e
    paths = [f.path for f in manifest.files]
    if len(set(paths)) != len(paths):
        raise BadInput("lists a file twice", where=path, hint="convert again")
    return manifest


def conversion(manifest: Manifest) -> dict[str, Any]:
    """What all formats of one conversion have in common, and no other conversion has."""
    said = manifest.model_dump(mode="json", exclude={"source": {"parts"}})
    return {k: said[k] for k in ("base", "mode", "recipe", "source", "measured", "calibration")}


def rebuild(manifest: Manifest | None, source: str | None = None) -> str:
    """The command that makes a pack again; "" where nobody says how it was made.

    source: where the manifest does not name it.  CALIBRATION, recipe.yaml and the names of LoRA
    files stand for what the command needs.
    """
    if manifest is None or not manifest.source.files:
        return ""
    said = manifest.source
    name = f"{said.id}@{said.revision}" if said.id and said.revision else said.id
    words = [TOOL, "convert", name or source or "SOURCE", "--mode", manifest.mode]
    words += ["--solver", str(manifest.recipe.get("solver", "exact"))]
    words += ["--calibration", "CALIBRATION"] if manifest.calibration else []
    words += ["--recipe", "recipe.yaml"] if manifest.recipe.get("layers") else []
    for lora in said.lora:
        words += ["--lora", f"{lora.name}:{lora.scale:g}"]
    words += ["--format", manifest.format]
    words += [] if said.parts or manifest.format not in DEPLOYMENTS else ["--transformer-only"]
    return shlex.join([*words, "-o", "packs"])


def is_foreign_manifest(folder: Path) -> bool:
    """A manifest.json is there, but another program wrote it."""
    path = folder / NAME
    if not path.is_file():
        return False
    try:
        return not is_of_this_program(fs.read_small(path))
    except (ValueError, BadInput):
        return False


def is_of_this_program(text: bytes) -> bool:
    """Whether a manifest.json is one of this program; ValueError when it is no JSON."""
    data = strict_json(text)
    tool = data.get("tool") if isinstance(data, dict) else None
    return isinstance(tool, dict) and tool.get("name") == TOOL
