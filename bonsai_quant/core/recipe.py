"""Recipes: a YAML file that says what a conversion should do, read strictly."""

from __future__ import annotations

import difflib
import fnmatch
from collections import Counter
from typing import Any, Literal

import pydantic
import yaml

from .errors import UsageError, suggest
from .schema import Action, Mode

TRAINING = ("calibration", "tuning", "distillation")
"""Keys that only the recipes of `recover` and `distill` may have."""

_STRICT = pydantic.ConfigDict(extra="forbid", frozen=True)


class Override(pydantic.BaseModel):
    """One rule for the layers whose name matches a shell pattern; the last match wins."""

    model_config = _STRICT
    match: str
    action: Action


class Recipe(pydantic.BaseModel):
    """What a conversion does. Every field but `mode` has a default.

    base: refuse a source of another base.  mode: of the whole pack.  group_size: of the format.
    solver: how scales and codes are chosen; the conversion checks the name.
    layers: exceptions, by name.
    """

    model_config = _STRICT
    description: str = ""
    base: str | None = None
    mode: Mode
    group_size: Literal[128] = 128
    solver: str = "exact"
    layers: tuple[Override, ...] = ()


def parse_recipe(data: dict[Any, Any], place: str) -> Recipe:
    """Check a recipe's values; unknown keys are errors that name the nearest known one."""
    if trains := [key for key in TRAINING if key in data]:
        raise UsageError(
            f"also trains ({', '.join(trains)}), and this command only rounds",
            where=place,
            hint="use `bonsai-quant recover`, which does both",
        )
    try:
        return Recipe.model_validate(data)
    except pydantic.ValidationError as e:
        raise UsageError(_first_problem(e), where=place, hint="mend the recipe") from e


def _first_problem(error: pydantic.ValidationError) -> str:
    # A misspelt key is also a missing one: name what was written, not what was not.
    problem = min(error.errors(), key=lambda p: p["type"] != "extra_forbidden")
    key = ".".join(str(p) for p in problem["loc"])
    if problem["type"] == "extra_forbidden":
        model = Override if len(problem["loc"]) > 1 else Recipe
        return f"unknown key {key!r}{suggest(str(problem['loc'][-1]), model.model_fields)}"
    return f"{key}: {problem['msg'].removeprefix('Value error, ')}"


def apply_overrides(recipe: Recipe, names: list[str]) -> dict[str, tuple[Action, str]]:
    """linear name -> (action, rule) for the layers that the recipe's patterns name.

    A pattern that matches nothing is an error; so is a ternary layer in a binary pack, whose one
    bit per code cannot hold it.
    """
    chosen: dict[str, tuple[Action, str]] = {}
    for i, rule in enumerate(recipe.layers):
        matched = fnmatch.filter(names, rule.match)
        if not matched:
            raise UsageError(
                f"the pattern {rule.match[:80]!r} matches no layer that can be packed"
                f"{_nearest(rule.match, names)}",
                where=f"recipe layers[{i}]",
                hint="see `bonsai-quant plan` for the names",
            )
        if rule.action == "ternary" and recipe.mode == "binary":
            raise UsageError(
                "a binary pack has one bit per code and cannot hold a ternary layer",
                where=f"recipe layers[{i}]",
                hint="use mode: ternary",
            )
        text = f"recipe layers[{i}]: {rule.match} -> {rule.action}"
        chosen |= {name: (rule.action, text) for name in matched}
    return chosen


def _nearest(pattern: str, names: list[str]) -> str:
    near = difflib.get_close_matches(pattern[:80].replace("*", ""), names, 1, cutoff=0.3)
    return f"; did you mean {near[0]!r}?" if near else ""


class UniqueKeyLoader(yaml.SafeLoader):
    """YAML's own loader lets the second of two equal keys win."""


def _unique_mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [k.value for k, _ in node.value]
    if not all(isinstance(k, str) for k in keys):
        raise yaml.YAMLError("a key is not a word")
    if len(set(keys)) < len(keys):
        raise yaml.YAMLError(f"the key {Counter(keys).most_common(1)[0][0]!r} stands twice")
    return loader.construct_mapping(node, deep=True)


UniqueKeyLoader.add_constructor("tag:yaml.org,2002:map", _unique_mapping)
