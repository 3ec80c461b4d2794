"""The command that makes a pack again."""

from __future__ import annotations

import shlex

from bonsai_quant.core.version import TOOL

from .deployment import DEPLOYMENTS
from .manifest import Manifest


def rebuild(manifest: Manifest | None, source: str | None = None) -> str:
    """The command that makes a pack again; "" where nobody says how it was made.

    source: where the manifest does not name it.  CALIBRATION, recipe.yaml and the names of LoRA
    files stand for what the command needs.
    """
    if manifest is None or not manifest.source.files:
        return ""
    record = manifest.source
    name = f"{record.id}@{record.revision}" if record.id and record.revision else record.id
    words = [TOOL, "convert", name or source or "SOURCE", "--mode", manifest.mode]
    words += ["--solver", str(manifest.recipe.get("solver", "exact"))]
    words += ["--calibration", "CALIBRATION"] if manifest.calibration else []
    words += ["--recipe", "recipe.yaml"] if manifest.recipe.get("layers") else []
    for lora in record.lora:
        words += ["--lora", f"{lora.name}:{lora.scale:g}"]
    words += ["--format", manifest.format]
    words += [] if record.parts or manifest.format not in DEPLOYMENTS else ["--transformer-only"]
    return shlex.join([*words, "-o", "packs"])
