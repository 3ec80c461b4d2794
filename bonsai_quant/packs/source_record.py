"""What a manifest says of a model that a pack was made from."""

from __future__ import annotations

import pydantic

from bonsai_quant.sources.license import License

_STRICT = pydantic.ConfigDict(extra="forbid", frozen=True)


class SourceFileRecord(pydantic.BaseModel):
    """A file that the pack was made from. name: inside the source's folder."""

    model_config = _STRICT
    name: str
    size: int = pydantic.Field(ge=0)
    sha256: str = pydantic.Field(pattern=r"^[0-9a-f]{64}$")


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
    files: list[SourceFileRecord]
    lora: list[LoraRecord] = []
    parts: list[SourceFileRecord] = []
