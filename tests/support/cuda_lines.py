"""Functions of the package that ask for a GPU, and whether a call goes the GPU's way in them."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

import bonsai_quant

ROOT = Path(bonsai_quant.__file__).parent


@dataclass(frozen=True)
class Asking:
    """A function with `torch.cuda`, "cuda" or a comparison with "cpu" in it.

    lines: first lines of the statements that do, and of what stands behind them on a GPU alone.
    """

    file: str
    name: str
    lines: frozenset[int]

    @property
    def key(self) -> str:
        return f"{self.file}:{self.name}"


def asking() -> dict[str, Asking]:
    """All of them by key."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        file = path.relative_to(ROOT).as_posix()
        for name, node in _functions(ast.parse(path.read_text()), ""):
            if lines := frozenset(_lines(node.body)):
                made = Asking(file, name, lines)
                found[made.key] = made
    return found


def _functions(node: ast.AST, outer: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef):
            name = f"{outer}{child.name}"
            if isinstance(child, ast.FunctionDef):
                yield name, child
            yield from _functions(child, f"{name}.")


def _lines(body: list[ast.stmt]) -> Iterator[int]:
    for k, statement in enumerate(body):
        if isinstance(statement, ast.FunctionDef | ast.ClassDef) or _is_docstring(statement):
            continue
        blocks = [b for f in ("body", "orelse", "finalbody") if (b := getattr(statement, f, None))]
        inside = {id(n) for b in blocks for s in b for n in ast.walk(s)}
        own = [n for n in ast.walk(statement) if id(n) not in inside]
        if any(map(_mentions, own)):
            yield statement.lineno
            if isinstance(statement, ast.If):
                yield from _behind(statement, body[k + 1 :])
        for block in blocks:
            yield from _lines(block)


def _is_docstring(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _mentions(node: ast.AST) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr == "cuda"
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value == "cuda" or node.value.startswith("cuda:")
    return _compares(node, "cpu") is not None


def _compares(node: ast.AST, word: str) -> bool | None:
    """True where a comparison asks whether it is `word`, False whether it is not, else None."""
    if not isinstance(node, ast.Compare) or len(node.ops) != 1:
        return None
    if not any(isinstance(c, ast.Constant) and c.value == word for c in node.comparators):
        return None
    return isinstance(node.ops[0], ast.Eq)


def _behind(statement: ast.If, after: list[ast.stmt]) -> Iterator[int]:
    """The first line that only a GPU reaches."""
    on_cpu = _compares(statement.test, "cpu"), _compares(statement.test, "cuda")
    if True in on_cpu[:1] or False in on_cpu[1:]:
        rest = statement.orelse or after
        if rest:
            yield rest[0].lineno
    elif False in on_cpu[:1] or True in on_cpu[1:]:
        yield statement.body[0].lineno


@contextmanager
def traced(function: Asking) -> Iterator[set[int]]:
    """The lines of it that run while the context is open."""
    seen: set[int] = set()
    path = str(ROOT / function.file)

    def each_line(frame, event, _):
        if event == "line":
            seen.add(frame.f_lineno)
        return each_line

    def each_call(frame, event, _):
        code = frame.f_code
        mine = code.co_filename == path and code.co_qualname == function.name
        return each_line if mine else None

    before = sys.gettrace()
    sys.settrace(each_call)
    try:
        yield seen
    finally:
        sys.settrace(before)


CUDA, META = torch.device("cuda"), torch.device("meta")
WALKS: dict = {}
"""Function -> what walks through its lines for a GPU."""


def walk(key):
    """Note a walk. key: file:function, as `asking` finds it."""
    return lambda function: WALKS.setdefault(key, function)
