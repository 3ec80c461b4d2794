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


class Calibrating(pydantic.BaseModel):
    """How inputs are looked at, for the recipe's solver. samples: prompts.  at_once: states."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)
    samples: int = pydantic.Field(default=64, ge=1)
    at_once: int = pydantic.Field(default=8, ge=1)


class Distillation(pydantic.BaseModel):
    """The settings of a training run. The defaults are for models of billions of weights.

    steps: updates.  batch: states that the loss of one update is taken over, in all processes.
    at_once: of those, on one device at a time.
    rate, kept_rate: of Adam, for the latent weights of packed layers, and for what is kept.
    own: share of updates on the student's own way from noise to picture, at the beginning and at
    the end; the others are on the teacher's.
    average: decay of the running mean, which is what is stored in the end; 0 for none.
    warm, fall: shares of the run in which the rate rises, and falls.
    freeze: share of the run, its last part, in which codes that jump to and fro are held.
    weights: of the sampler's steps in the loss, first step first; equal when empty.
    exam: updates between looks at held-out prompts.  prompts: at most so many are used.
    checkpointing: compute blocks again for their gradient rather than keep what they computed.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)
    steps: int = pydantic.Field(default=10_000, ge=1)
    batch: int = pydantic.Field(default=32, ge=1)
    at_once: int = pydantic.Field(default=4, ge=1)
    rate: float = pydantic.Field(default=2e-5, gt=0, le=1)
    kept_rate: float = pydantic.Field(default=4e-6, ge=0, le=1)
    own: tuple[float, float] = (0.3, 0.7)
    average: float = pydantic.Field(default=0.999, ge=0, lt=1)
    warm: float = pydantic.Field(default=0.02, ge=0, le=1)
    fall: float = pydantic.Field(default=0.5, gt=0, le=1)
    freeze: float = pydantic.Field(default=0.1, ge=0, le=1)
    weights: tuple[float, ...] = ()
    exam: int = pydantic.Field(default=500, ge=1)
    prompts: int | None = pydantic.Field(default=None, ge=1)
    checkpointing: bool = True

    def speed(self, step: int) -> float:
        """Share of the full rate at a step: up, level, and down to nothing."""
        up = (step + 1) / max(1.0, self.warm * self.steps)
        down = (self.steps - step) / (self.fall * self.steps)
        return min(1.0, up, down)

    def owned(self, step: int) -> float:
        """How likely the states of a step are the student's own."""
        start, end = self.own
        return start + (end - start) * step / max(1, self.steps - 1)

    def freezes(self, step: int) -> bool:
        """Whether codes that jump are held at this step."""
        return step >= (1 - self.freeze) * self.steps and self.freeze > 0
