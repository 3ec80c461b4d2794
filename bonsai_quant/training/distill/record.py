"""What distillation.json holds."""

from __future__ import annotations

from typing import Any, TypedDict


class SourceRecord(TypedDict):
    """The model that was trained. sha256: of each file, by its name."""

    id: str | None
    revision: str | None
    sha256: dict[str, str]


class PromptsRecord(TypedDict):
    """The prompts that were used: their number and the sha256 of their text."""

    number: int
    sha256: str


class DistillationRecord(TypedDict):
    """One run. layers: how many were trained.  settings: as the recipe has them.

    start: sha256 of the manifest of the pack that the student began as, if any.
    held_out: the last validation: its step, the error, and the score where a checker can tell.
    """

    schema_version: int
    source: SourceRecord
    mode: str
    layers: int
    settings: dict[str, Any]
    seed: int
    prompts: PromptsRecord
    start: str | None
    version: str
    held_out: dict[str, float]
