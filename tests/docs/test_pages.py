"""Tables of the pages against the code: keys of recipes and manifests, exit codes, messages."""

from __future__ import annotations

import ast
import re

import yaml

from bonsai_quant.core import errors
from bonsai_quant.core.recipe import Override, Recipe
from bonsai_quant.packs import manifest, provenance_record, source_record
from bonsai_quant.training.settings import CalibrationSettings, DistillationSettings
from tests.docs.blocks import ROOT

DOCS = ROOT / "docs"
MODELS = (Recipe, Override, CalibrationSettings, DistillationSettings)


def between(page: str, mark: str) -> list[list[str]]:
    """The rows of the table that stands between two marks of a page."""
    found = re.search(rf"<!-- {mark} -->\n(.*?)<!-- /", (DOCS / page).read_text(), flags=re.S)
    rows = [[c.strip() for c in row.split("|")[1:-1]] for row in found[1].splitlines()]
    return rows[2:]


def test_recipe_keys_and_their_defaults():
    for kind in MODELS:
        name, fields = kind.__name__, kind.model_fields
        rows = {
            row[0].strip("`"): row[1] for row in between("reference/recipes.md", f"keys: {name}")
        }
        assert set(rows) == set(fields), name
        for key, text in rows.items():
            default = None if fields[key].is_required() else fields[key].default
            words = {"empty": ("", ()), "none": (None,), "": (None,)}
            assert default in words.get(text, (_value(text, default),)), key


def _value(text: str, default: object) -> object:
    """A default as the page has it, in backticks, in the type of the code's."""
    value = yaml.safe_load(text.strip("`"))
    return type(default)(value) if isinstance(default, float | tuple) else value


def test_shipped_recipes():
    rows = {row[0].strip("`") for row in between("reference/recipes.md", "recipes")}
    assert rows == {p.stem for p in (ROOT / "recipes").glob("*.yaml")}


def test_manifest_keys():
    page = (DOCS / "reference" / "manifest.md").read_text()
    for name in re.findall(r"<!-- keys: (\w+) -->", page):
        cells = [row[0] for row in between("reference/manifest.md", f"keys: {name}")]
        rows = {key.strip("`") for cell in cells for key in cell.split(", ")}
        kinds = [getattr(m, name, None) for m in (manifest, source_record, provenance_record)]
        assert rows == set(next(k for k in kinds if k).model_fields), name


def test_exit_codes():
    rows = between("troubleshooting.md", "exit codes")
    listed = {(int(row[0]), row[1].strip("`")) for row in rows if row[1]}
    kinds = {(c.exit_code, c.kind) for c in vars(errors).values()
             if isinstance(c, type) and issubclass(c, errors.BonsaiError)}  # fmt: skip
    assert listed == kinds


def test_messages_are_those_of_the_code():
    """Each heading is a message: its fixed parts stand in one file of the package."""
    page = (DOCS / "troubleshooting.md").read_text()
    headings = re.findall(r"^### (.+)$", page.partition("## Messages")[2], flags=re.M)
    texts = [_texts(p.read_text()) for p in (ROOT / "bonsai_quant").rglob("*.py")]
    for heading in headings:
        parts = [p.strip(" ,;(").rstrip(")") for p in heading.split("...")]
        parts = [p for p in parts if len(p) > 1]
        assert parts, heading
        assert any(all(p in text for p in parts) for text in texts), heading


def _texts(source: str) -> str:
    """All texts of a file; pieces of one text that are written one after another are joined."""
    nodes = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Constant)]
    return "\n".join(n.value for n in nodes if isinstance(n.value, str))
