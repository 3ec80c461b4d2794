"""manifest.json: what a pack is, what it was made from, and every file of it with its hash."""

from __future__ import annotations

import re
from typing import Any, Literal

import pydantic

from bonsai_quant.core.errors import BadInput, Unsupported, first_problem
from bonsai_quant.core.schema import SCHEMA_VERSION, Mode
from bonsai_quant.core.version import TOOL
from bonsai_quant.sources.license import CARD

from .provenance_record import ProvenanceRecord
from .source_record import SourceRecord

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
    provenance: the stages that led to the pack, where there was more than rounding; only then is
    the key written.
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
    provenance: ProvenanceRecord | None = None
    files: list[ManifestFile] = pydantic.Field(max_length=MAX_FILES)

    @pydantic.model_serializer(mode="wrap")
    def _without_empty_provenance(
        self, fields: pydantic.SerializerFunctionWrapHandler
    ) -> dict[str, Any]:
        """Manifests of packs that were only rounded keep the bytes that they always had."""
        data: dict[str, Any] = fields(self)
        if self.provenance is None:
            data.pop("provenance", None)
        return data


def validate_manifest(data: object, path: str) -> Manifest:
    """The manifest that parsed JSON is. path: for messages."""
    if isinstance(data, dict) and data.get("schema_version", 1) != SCHEMA_VERSION:
        raise Unsupported(
            f"has schema version {data['schema_version']}; this version reads {SCHEMA_VERSION}",
            where=path,
            hint="upgrade bonsai-quant",
        )
    try:
        manifest = Manifest.model_validate(data)
    except pydantic.ValidationError as e:
        raise BadInput(first_problem(e), where=path, hint="convert again") from e
    paths = [f.path for f in manifest.files]
    if len(set(paths)) != len(paths):
        raise BadInput("lists a file twice", where=path, hint="convert again")
    return manifest


def conversion(manifest: Manifest) -> dict[str, Any]:
    """What all formats of one conversion have in common, and no other conversion has."""
    fields = manifest.model_dump(mode="json", exclude={"source": {"parts"}})
    return {k: fields[k] for k in ("base", "mode", "recipe", "source", "measured", "calibration")}


def is_of_this_program(data: object) -> bool:
    """Whether parsed JSON is a manifest of this program."""
    tool = data.get("tool") if isinstance(data, dict) else None
    return isinstance(tool, dict) and tool.get("name") == TOOL
