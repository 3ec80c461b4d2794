"""Functions and files stay small, and public names are explained."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import bonsai_quant

ROOT = Path(bonsai_quant.__file__).parent
TESTS = Path(__file__).parent
LONGEST_FUNCTION, LONGEST_FILE, LONGEST_TEST_FILE = 45, 250, 400
LONGER_FILES = {
    "sources/families/flux2.py": 372,
    "core/schema.py": 284,
    "hub/client.py": 278,
    "storage/fs.py": 262,
    "storage/containers/torchpickle_reader.py": 254,
}
"""Files that are longer, and how long they may be."""


@cache
def modules() -> list[tuple[str, str, ast.Module]]:
    """Path, text and syntax tree of each."""
    paths = [p for p in sorted(ROOT.rglob("*.py")) if p != ROOT / "__init__.py"]
    texts = {p.relative_to(ROOT).as_posix(): p.read_text() for p in paths}
    return [(name, text, ast.parse(text)) for name, text in texts.items()]


def test_files_stay_small():
    long = {name: len(text.splitlines()) for name, text, _ in modules()}
    assert {n: k for n, k in long.items() if k > LONGER_FILES.get(n, LONGEST_FILE)} == {}


def test_test_files_stay_small():
    lengths = {str(p): len(p.read_text().splitlines()) for p in TESTS.rglob("*.py")}
    assert {n: k for n, k in lengths.items() if k > LONGEST_TEST_FILE} == {}


def test_functions_stay_small():
    long = []
    for name, _, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.end_lineno:
                body = node.end_lineno - node.body[0].lineno + 1
                if body > LONGEST_FUNCTION:
                    long.append(f"{name}: {node.name} has {body} lines")
    assert long == []


def public(tree: ast.Module):
    """Public functions and classes of a module, and the public methods of its public classes."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    for node in tree.body:
        if isinstance(node, kinds) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                methods = [m for m in node.body if isinstance(m, ast.FunctionDef)]
                yield from (m for m in methods if not m.name.startswith("_"))


def test_public_names_are_documented():
    missing = [name for name, _, tree in modules() if not ast.get_docstring(tree)]
    missing += [f"{name}: {node.name}" for name, _, tree in modules() for node in public(tree)
                if not ast.get_docstring(node)]  # fmt: skip
    assert missing == []
