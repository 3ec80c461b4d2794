"""Data flows one way, functions stay small, and public names are explained."""

from __future__ import annotations

import ast
from pathlib import Path

import bonsai_quant

ROOT = Path(bonsai_quant.__file__).parent

ORDER = (
    "version", "errors", "needs", "schema", "training", "png", "jit", "child", "scenes", "storage",
    "bases", "shards", "parts", "shipped", "hub", "license", "source", "recipe", "settings",
    "recovery", "checks", "bits", "dense", "fourbit", "guide", "solvers", "calibration", "lora",
    "formats", "pool", "deployment", "plan", "assembly", "pipeline", "layers", "manifest",
    "foreign", "ongrid", "pack", "integrity", "card", "packwriter", "resume", "convert",
    "kernels", "benchmark", "runners", "levels", "verify", "export", "diff", "inspect", "doctor",
    "tables", "generate", "report", "intervals", "gallery", "grid", "score", "trajectories",
    "calibrate", "pipelinefolder", "fold", "distill", "recover", "demo", "secrets", "publish",
    "pull", "scoreboard", "answers", "publications", "ending", "manners", "cli_training",
    "cli_hub", "cli", "__main__",
)  # fmt: skip
"""A module imports only from those before it. Plan needs the formats, to know every byte."""

ALLOWED_BACK = {
    ("hub", "source"),  # a Hub id is fetched, then read like any folder
    ("kernels", "pack"),
}
LONGEST_FUNCTION, LONGEST_FILE = 45, 380


def modules():
    for path in sorted(ROOT.rglob("*.py")):
        relative = path.relative_to(ROOT)
        if relative.parts != ("__init__.py",):
            yield relative.parts[0].removesuffix(".py"), path, ast.parse(path.read_text())


def imported(path: Path, tree: ast.AST):
    """Top-level modules of the package that a file imports."""
    depth = len(path.relative_to(ROOT).parts)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == depth:
            names = [node.module] if node.module else [a.name for a in node.names]
            yield from (n.split(".")[0] for n in names)


def test_every_module_has_its_place():
    assert {name for name, _, _ in modules()} <= set(ORDER)


def test_modules_import_only_from_those_before_them():
    wrong = [
        f"{path.relative_to(ROOT)} imports {other}"
        for name, path, tree in modules()
        for other in imported(path, tree)
        if ORDER.index(other) > ORDER.index(name) and (name, other) not in ALLOWED_BACK
    ]
    assert wrong == []


def test_sources_solvers_formats_and_runners_never_see_one_another():
    apart = {"source", "solvers", "formats", "kernels", "runners"}
    shared = {("formats", "solvers")}  # the grid of legal scales
    for name, path, tree in modules():
        if name in apart:
            others = {(name, o) for o in imported(path, tree) if o in apart - {name}}
            assert others <= shared, path


def test_functions_and_files_stay_small():
    long = []
    for _, path, tree in modules():
        lines = path.read_text().splitlines()
        if len(lines) > LONGEST_FILE:
            long.append(f"{path.name}: {len(lines)} lines")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.end_lineno:
                body = node.end_lineno - node.body[0].lineno + 1
                if body > LONGEST_FUNCTION:
                    long.append(f"{path.name}: {node.name} has {body} lines")
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
    missing = [path.name for _, path, tree in modules() if not ast.get_docstring(tree)]
    missing += [f"{path.name}: {node.name}" for _, path, tree in modules() for node in public(tree)
                if not ast.get_docstring(node)]  # fmt: skip
    assert missing == []
