"""Answers of the command path: where the models lie that come with the program."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bonsai_quant.sources.shipped import NAMES

from .answer import Answer, Table


def located(name: str, folder: Path) -> Answer:
    """The folder alone, for a shell to use."""
    return Answer(str(folder), {"name": name, "path": str(folder)})


def listed(folders: Mapping[str, Path]) -> Answer:
    """Every name with what it is; the folder of each is in `--json`."""
    rows = [(name, "model in 16 bits" if name in NAMES else "recovered pack") for name in folders]
    data = [{"name": name, "path": str(folder)} for name, folder in folders.items()]
    return Answer([Table(rows)], {"shipped": data})
