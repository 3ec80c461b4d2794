"""Recipes that also train: how a conversion is done, and how quality is recovered before it."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pydantic

from bonsai_quant.conversion.settings import check_solver, choose_recipe, read_mapping, shipped
from bonsai_quant.core.errors import UsageError, first_problem
from bonsai_quant.core.recipe import TRAINING, Recipe, parse_recipe
from bonsai_quant.packs.provenance_record import RecipeRecord

from .settings import CalibrationSettings, DistillationSettings, TuningSettings

Settings = TypeVar("Settings", bound=pydantic.BaseModel)
Training = TypeVar("Training", bound=DistillationSettings)


@dataclass(frozen=True, slots=True)
class Recovery:
    """recipe: of the conversion.  The others: of the stages before it, if any, in their order."""

    recipe: Recipe
    calibration: CalibrationSettings | None = None
    tuning: TuningSettings | None = None
    distillation: DistillationSettings | None = None


def load_recovery(recipe: str | Path | Recipe | Recovery | None, mode: str | None) -> Recovery:
    """A recipe with its training, from a file or a shipped one's name; or a recipe of a mode."""
    if isinstance(recipe, Recovery):
        return recipe
    if recipe is None or isinstance(recipe, Recipe):
        return Recovery(choose_recipe(recipe, mode, None)[0])
    data, path = read_mapping(recipe)
    training = {key: data.pop(key) for key in TRAINING if key in data}
    checked = check_solver(parse_recipe(data, str(path)), str(path))
    used = choose_recipe(checked, mode, None)[0]

    def settings(kind: type[Settings], key: str) -> Settings | None:
        return _validated(kind, training[key], key, str(path)) if key in training else None

    return Recovery(
        used,
        settings(CalibrationSettings, "calibration"),
        settings(TuningSettings, "tuning"),
        settings(DistillationSettings, "distillation"),
    )


def recipe_record(recipe: str | Path | Recipe | Recovery | None, used: Recovery) -> RecipeRecord:
    """What a user has to give to get the same again: a shipped recipe's name, or its contents.

    recipe: as it was given.  used: what became of it, with the changes of the command line.
    """
    if isinstance(recipe, str | Path):
        data, path = read_mapping(recipe)
        if load_recovery(recipe, None) == used:
            ships = not os.path.lexists(recipe) and shipped(str(recipe)) is not None
            name = str(recipe) if ships else _file_name(path)
            content = None if ships else data
            return RecipeRecord(name=name, sha256=_hash(data), content=content)
    return _written_out(used)


def _written_out(used: Recovery) -> RecipeRecord:
    """A recipe file that nobody wrote yet, with every setting."""
    data = used.recipe.model_dump(mode="json", exclude_defaults=True)
    for key in TRAINING:
        settings: pydantic.BaseModel | None = getattr(used, key)
        if settings is not None:
            data[key] = settings.model_dump(mode="json", exclude_defaults=True)
    return RecipeRecord(name="recipe.yaml", sha256=_hash(data), content=data)


def _hash(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _file_name(path: Path) -> str:
    """The recipe's own name, where a shell takes it as it is."""
    return path.name if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", path.name) else "recipe.yaml"


def with_changes(settings: Training, changes: Mapping[str, Any]) -> Training:
    """The settings with those that the command line gives; None is no change."""
    given = {k: v for k, v in changes.items() if v is not None}
    changed = _validated(type(settings), given, settings.section, "the settings")
    return settings.model_copy(update={k: getattr(changed, k) for k in changed.model_fields_set})


def _validated(kind: type[Settings], data: Any, name: str, where: str) -> Settings:
    try:
        return kind.model_validate(data)
    except pydantic.ValidationError as e:
        raise UsageError(f"{name}: {first_problem(e)}", where=where, hint="mend the recipe") from e
