"""Recipes that also train: a recipe's fields, and how quality is to be recovered before it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic

from bonsai_quant.conversion.settings import check_solver, choose_recipe, read_mapping
from bonsai_quant.core.errors import UsageError, first_problem
from bonsai_quant.core.recipe import TRAINING, Calibrating, Distillation, Recipe, parse_recipe


@dataclass(frozen=True, slots=True)
class Recovery:
    """recipe: of the conversion.  calibration, distillation: of what comes before, if anything."""

    recipe: Recipe
    calibration: Calibrating | None = None
    distillation: Distillation | None = None


def load_recovery(recipe: str | Path | Recipe | None, mode: str | None) -> Recovery:
    """A recipe with its training, from a file or a shipped one's name; a mode alone is one too."""
    if recipe is None or isinstance(recipe, Recipe):
        return Recovery(choose_recipe(recipe, mode, None)[0])
    data, place = read_mapping(recipe)
    said = {key: data.pop(key) for key in TRAINING if key in data}
    read = check_solver(parse_recipe(data, str(place)), str(place))
    used = choose_recipe(read, mode, None)[0]
    kinds = {"calibration": Calibrating, "distillation": Distillation}
    return Recovery(used, **{k: _settings(kinds[k], v, k, str(place)) for k, v in said.items()})


def with_changes(settings: Distillation, changes: Mapping[str, Any]) -> Distillation:
    """The settings with those that were given on the command line."""
    given = {k: v for k, v in changes.items() if v is not None}
    changed: Distillation = _settings(
        Distillation, settings.model_dump() | given, "distillation", "the settings"
    )
    return changed


def _settings(kind: Any, data: Any, name: str, place: str) -> Any:
    try:
        return kind.model_validate(data)
    except pydantic.ValidationError as e:
        raise UsageError(f"{name}: {first_problem(e)}", where=place, hint="mend the recipe") from e
