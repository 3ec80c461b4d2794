"""The models and packs that come with this program: their names, and where they lie."""

from __future__ import annotations

from pathlib import Path

from bonsai_quant.core.errors import EnvironmentFault

DATA = Path(__file__).resolve().parents[1] / "data"
NAMES = ("mini-klein",)
"""Each a folder of DATA: a whole pipeline, as diffusers saves one."""
PACKS = ("mini-klein-ternary", "mini-klein-binary")
"""Each a folder of DATA: a pack of mini-klein whose quality was recovered."""


def find_shipped(name: str) -> Path | None:
    """The folder of the shipped model of this name; None for every other name."""
    if name not in NAMES:
        return None
    folder = DATA / name
    if not (folder / "model_index.json").is_file():
        raise EnvironmentFault(
            f"the model {name!r} is not in this installation",
            where=str(folder),
            hint="install bonsai-quant again",
        )
    return folder


def find_shipped_pack(name: str) -> Path | None:
    """The folder of the shipped pack of this name; None when there is none."""
    folder = DATA / name
    return folder if name in PACKS and (folder / "manifest.json").is_file() else None


def shipped_folder(name: str) -> Path:
    """The folder of a shipped model or pack; raises EnvironmentFault where it was not installed."""
    if folder := find_shipped(name) or find_shipped_pack(name):
        return folder
    raise EnvironmentFault(
        f"the pack {name!r} is not in this installation",
        where=str(DATA / name),
        hint="install bonsai-quant again",
    )
