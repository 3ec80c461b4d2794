"""Recipes: a YAML file that says what a conversion should do, read strictly."""

from __future__ import annotations

import difflib
import fnmatch
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import pydantic
import yaml

from .errors import BadInput, UsageError
from .schema import SOLVER_NAMES, Action, Mode
from .storage import fs

TRAINING = ("calibration", "distillation")
"""What the recipes of `recover` may say besides."""

_STRICT = pydantic.ConfigDict(extra="forbid", frozen=True)


class Override(pydantic.BaseModel):
    """One rule for the layers whose name matches a shell pattern; the last match wins."""

    model_config = _STRICT
    match: str
    action: Action


class Recipe(pydantic.BaseModel):
    """What a conversion does. Every field but `mode` has a default.

    base: refuse a source of another base.  mode: of the whole pack.  group_size: of the format.
    solver: how scales and codes are chosen.  layers: exceptions, by name.
    """

    model_config = _STRICT
    description: str = ""
    base: str | None = None
    mode: Mode
    group_size: Literal[128] = 128
    solver: str = "exact"
    layers: tuple[Override, ...] = ()

    @pydantic.field_validator("solver")
    @classmethod
    def _known_solver(cls, value: str) -> str:
        if value not in SOLVER_NAMES:
            raise ValueError(f"unknown solver {value!r}{suggest(value, SOLVER_NAMES)}")
        return value


def suggest(word: str, known: Iterable[str]) -> str:
    """'; did you mean X?' or the list of what there is."""
    known = list(known)
    near = difflib.get_close_matches(str(word), known, 1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}"


def unknown(kind: str, word: str, known: Iterable[str]) -> UsageError:
    """The error for a word that does not exist: the nearest one that does, and all of them."""
    known = list(known)
    near = difflib.get_close_matches(word[:80], known, 1)
    guess = f"; did you mean {near[0]!r}?" if near else ""
    return UsageError(f"unknown {kind} {word[:80]!r}{guess}", hint=f"choose {' or '.join(known)}")


def shipped(name: str) -> Path | None:
    """Path of a recipe that comes with the program, by its name without `.yaml`; or None."""
    here = Path(__file__).resolve().parent
    for folder in (here / "recipes", here.parent / "recipes"):
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    return None


def load_recipe(place: str | Path) -> Recipe:
    """A recipe from a file, or a shipped one by its name."""
    data, path = read_mapping(place)
    return parse_recipe(data, str(path))


def read_mapping(place: str | Path) -> tuple[dict[Any, Any], Path]:
    """What the YAML of a recipe says, and where it is."""
    path = Path(place)
    if not os.path.lexists(path):
        known = shipped(str(place))
        if known is None:
            raise UsageError(f"no recipe {str(place)[:300]!r}", hint="give a YAML file")
        path = known
    try:
        data = yaml.load(fs.read_small(path, 1 << 20).decode(), Loader=_UniqueKeyLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as e:  # ValueError: numbers, dates, UTF-8
        reason = " ".join(str(e).split())[:300]
        raise BadInput(f"is not YAML: {reason}", where=str(path), hint="mend the file") from e
    if not isinstance(data, dict):
        raise BadInput("is not a mapping of keys to values", where=str(path), hint="mend the file")
    return data, path


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


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML's own loader lets the second of two equal keys win."""


def _unique_mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [k.value for k, _ in node.value]
    if not all(isinstance(k, str) for k in keys):
        raise yaml.YAMLError("a key is not a word")
    if len(set(keys)) < len(keys):
        raise yaml.YAMLError(f"the key {Counter(keys).most_common(1)[0][0]!r} stands twice")
    return loader.construct_mapping(node, deep=True)


_UniqueKeyLoader.add_constructor("tag:yaml.org,2002:map", _unique_mapping)
