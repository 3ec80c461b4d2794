"""Where each setting of a run comes from: flag, then environment, then recipe, then default."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import UsageError
from .recipe import Recipe, load_recipe, unknown
from .schema import SOLVER_NAMES

DEFAULT_SOURCE = "black-forest-labs/FLUX.2-klein-4B"
MODES = ("ternary", "binary")
MAX_THREADS = 256


@dataclass(frozen=True, slots=True)
class Setting:
    """A value and who set it."""

    name: str
    value: str
    origin: str


def choose_recipe(
    recipe: str | Path | Recipe | None, mode: str | None, solver: str | None
) -> tuple[Recipe, tuple[Setting, ...]]:
    """The recipe as it will be used, and the origin of its values."""
    if mode is not None and mode not in MODES:
        raise unknown("mode", mode, MODES)
    if solver is not None and solver not in SOLVER_NAMES:
        raise unknown("solver", solver, SOLVER_NAMES)
    if recipe is None and mode is None:
        raise UsageError("no mode was chosen", hint="pass --mode ternary or --mode binary")
    base = (
        recipe
        if isinstance(recipe, Recipe)
        else load_recipe(recipe if recipe is not None else f"klein-4b-{mode}")
    )
    flags = {k: v for k, v in (("mode", mode), ("solver", solver)) if v is not None}
    used = Recipe.model_validate(base.model_dump() | flags)
    place = "default" if recipe is None else f"recipe {getattr(recipe, 'description', recipe)}"
    return used, tuple(
        Setting(name, str(getattr(used, name)), "flag" if name in flags else place)
        for name in ("mode", "solver", "group_size")
    )


def choose_threads(threads: int | None) -> tuple[int, Setting]:
    """Threads that solve: --threads, else BONSAI_QUANT_THREADS, else every core."""
    origin, text = "flag", os.environ.get("BONSAI_QUANT_THREADS", "")
    if threads is None and text:
        origin, threads = "environment", int(text) if re.fullmatch("[0-9]{1,9}", text) else 0
    if threads is None:
        origin, threads = "default", os.cpu_count() or 1
        if hasattr(os, "sched_getaffinity"):
            threads = len(os.sched_getaffinity(0))
    if not 1 <= threads <= MAX_THREADS:
        raise UsageError(
            f"the number of threads must be 1 to {MAX_THREADS}, not {text[:40] or threads}",
            hint="pass another --threads" if origin == "flag" else "set BONSAI_QUANT_THREADS anew",
        )
    return threads, Setting("threads", str(threads), origin)


def default_out(place: str, mode: str) -> Path:
    """./NAME-MODE for a source named NAME, whatever its path, organisation or ending."""
    name = Path(place.partition("@")[0].rstrip("/")).name.removesuffix(".safetensors")
    if name in ("", ".", "..", "transformer"):
        name = Path(os.path.abspath(place)).parent.name or "model"
    return Path(f"{name}-{mode}")


def parse_formats(formats: Sequence[str] | str) -> tuple[str, ...]:
    """`mlx,gemlite` or a sequence of such texts -> names."""
    texts = [formats] if isinstance(formats, str) else formats
    return tuple(name.strip() for text in texts for name in text.split(",") if name.strip())
