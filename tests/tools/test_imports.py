"""What benchmarks and tools import is there, though no test runs them whole."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

import pytest

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[2]
OURS = {"benchmarks", "bonsai_quant", "tools"}
FILES = sorted(p for folder in ("benchmarks", "tools") for p in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_its_imports_are_there(path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    imported = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom)]
    for node in imported:
        package = path.parent.relative_to(ROOT).parts
        package = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
        name = ".".join(p for p in (package, node.module) if p)
        known = {*OURS, *(p.name for p in (ROOT / "tools").iterdir())}
        if name.split(".")[0] in known:
            module = import_module(name)
            missing = [a.name for a in node.names if not hasattr(module, a.name)]
            assert not [m for m in missing if import_module(f"{name}.{m}") is None]
