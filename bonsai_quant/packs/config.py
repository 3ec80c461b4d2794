"""The config of a pack's transformer: what the shapes tell, and what only its config.json can."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bonsai_quant.core.errors import BadInput
from bonsai_quant.sources.checkpoint import free_fields
from bonsai_quant.sources.families import Model
from bonsai_quant.sources.families.model import check_config
from bonsai_quant.storage import fs
from bonsai_quant.storage.strict_json import strict_json


def config_of(folder: Path, model: Model) -> dict[str, Any]:
    """The config, of a folder that may have a config.json."""
    path = folder / "config.json"
    if not path.is_file():
        return dict(model.config)
    try:
        config = strict_json(fs.read_small(path))
    except ValueError as e:
        raise BadInput(f"is not JSON: {e}", where=str(path), hint="convert again") from e
    if not isinstance(config, dict):
        raise BadInput("is not an object", where=str(path), hint="convert again")
    check_config(config, model, str(path))
    return dict(model.config) | free_fields(config, path)
