"""Where each setting of a run comes from: flag, then environment, then recipe, then default."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from bonsai_quant.core.errors import BadInput, UsageError, suggest, unknown
from bonsai_quant.core.recipe import Recipe, UniqueKeyLoader, parse_recipe
from bonsai_quant.core.schema import MODES
from bonsai_quant.core.threads import Setting
from bonsai_quant.quantization.solvers import SOLVER_NAMES, SOLVERS
from bonsai_quant.storage import fs

DEFAULT_SOURCE = "black-forest-labs/FLUX.2-klein-4B"


def choose_recipe(
    recipe: str | Path | Recipe | None, mode: str | None, solver: str | None
) -> tuple[Recipe, tuple[Setting, ...]]:
    """The recipe as it will be used, and the origin of its values."""
    if mode is not None and mode not in MODES:
        raise unknown("mode", mode, MODES)
    if solver is not None and solver not in SOLVER_NAMES:
        raise unknown("solver", solver, SOLVER_NAMES)
    if recipe is None and mode is None:
        raise UsageError(
            "no mode was chosen",
            hint="pass --mode ternary or --mode binary",
            meant=("--mode", "ternary"),
        )
    base = (
        recipe
        if isinstance(recipe, Recipe)
        else load_recipe(recipe if recipe is not None else f"klein-4b-{mode}")
    )
    flags = {k: v for k, v in (("mode", mode), ("solver", solver)) if v is not None}
    used = Recipe.model_validate(base.model_dump() | flags)
    _check_modes(check_solver(used))
    place = "default" if recipe is None else f"recipe {getattr(recipe, 'description', recipe)}"
    return used, tuple(
        Setting(name, str(getattr(used, name)), "flag" if name in flags else place)
        for name in ("mode", "solver", "group_size")
    )


def check_solver(recipe: Recipe, place: str = "") -> Recipe:
    """The same recipe, when its solver is one of ours. place: its file, for the error."""
    if recipe.solver not in SOLVER_NAMES:
        guess = suggest(recipe.solver, SOLVER_NAMES)
        raise UsageError(
            f"solver: unknown solver {recipe.solver!r}{guess}", where=place, hint="mend the recipe"
        )
    return recipe


def _check_modes(recipe: Recipe) -> None:
    """Refuse a solver that cannot solve the layers' modes."""
    modes = {recipe.mode, *(rule.action for rule in recipe.layers)} - {"keep"}
    if lacking := sorted(modes - set(SOLVERS[recipe.solver].modes)):
        raise UsageError(
            f"the solver {recipe.solver!r} cannot make {lacking[0]} layers",
            hint="choose another --solver",
        )


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


def shipped(name: str) -> Path | None:
    """Path of a recipe that comes with the program, by its name without `.yaml`; or None."""
    for folder in _recipe_folders():
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    return None


def shipped_recipes() -> tuple[str, ...]:
    """The names of all recipes that come with the program."""
    return tuple(sorted({path.stem for f in _recipe_folders() for path in f.glob("*.yaml")}))


def _recipe_folders() -> tuple[Path, Path]:
    package = Path(__file__).resolve().parents[1]
    return package / "data" / "recipes", package.parent / "recipes"


def load_recipe(place: str | Path) -> Recipe:
    """A recipe from a file, or a shipped one by its name."""
    data, path = read_mapping(place)
    return check_solver(parse_recipe(data, str(path)), str(path))


def read_mapping(place: str | Path) -> tuple[dict[Any, Any], Path]:
    """What the YAML of a recipe says, and where it is."""
    path = Path(place)
    if not os.path.lexists(path):
        known = shipped(str(place))
        if known is None:
            names = shipped_recipes()
            hint = f"give a YAML file, or one of {', '.join(names)}"
            raise unknown("recipe", str(place), names, hint=hint)
        path = known
    try:
        data = yaml.load(fs.read_small(path, 1 << 20).decode(), Loader=UniqueKeyLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as e:  # ValueError: numbers, dates, UTF-8
        reason = " ".join(str(e).split())[:300]
        raise BadInput(f"is not YAML: {reason}", where=str(path), hint="mend the file") from e
    if not isinstance(data, dict):
        raise BadInput("is not a mapping of keys to values", where=str(path), hint="mend the file")
    return data, path
