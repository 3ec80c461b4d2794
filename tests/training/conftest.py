"""A short training, and the recipe of it."""

from __future__ import annotations

import json

import pytest

from bonsai_quant import distill

SETTINGS = {
    "steps": 6, "batch": 8, "at_once": 8, "rate": 1e-3, "kept_rate": 1e-3, "average": 0.5,
    "exam": 3, "freeze": 0.34, "prompts": 6, "checkpointing": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(json.dumps({"mode": "ternary", "distillation": SETTINGS}))
    return path


@pytest.fixture(scope="module")
def whole(standin, recipe, few, tmp_path_factory):
    """A run that nothing stops."""
    out = tmp_path_factory.mktemp("whole") / "out"
    return distill(str(standin), recipe=recipe, out=out, prompts=str(few))
