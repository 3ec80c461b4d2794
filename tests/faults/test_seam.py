"""Files are changed in one place only: what writes stands in storage/ and goes through the seam."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import bonsai_quant

ROOT = Path(bonsai_quant.__file__).parent
PERMITTED = {
    "evaluation/contact_sheet.py": {"draw_grid"},  # a PNG in memory
    "runners/png.py": {"encode_png"},  # another
    "evaluation/kept.py": {"_decoded"},  # opens a picture that is in memory
    "publishing/labelled_grid.py": {"labelled"},  # a PNG in memory
    "publishing/report/embed.py": {"picture_url"},
    "publishing/report/share_card.py": {"draw_card"},
    "runners/edit_images.py": {"read_picture"},  # opens a picture that is in memory
    "evaluation/scenes/validation.py": {"compressed"},  # a JPEG in memory
    "packs/deployment/hqq_child.py": {"main"},  # into a file that is open, through the seam
    "verification/kernels/gemlite_process.py": {
        "run_child"
    },  # arrays for a child, in a temporary folder
    "verification/kernels/gemlite_child.py": {"main"},  # its answer
    "runners/gemlite/tuned.py": {"keep"},  # gemlite writes into a temporary folder
    "sources/remote.py": {"fetch"},  # a mirror of headers, in a temporary folder
    "sources/header_mirror.py": {"copy_headers"},  # into that folder
    "storage/system.py": {"write_at"},  # what the seam itself is made of
}
ELSEWHERE = "hub"
"""Fills the Hub's cache, by the cache's own rules."""
OS_CHANGES = {
    "chmod", "chown", "ftruncate", "link", "makedirs", "mkdir", "mkfifo", "pwrite", "pwritev",
    "remove", "removedirs", "rename", "renames", "replace", "rmdir", "symlink", "truncate",
    "unlink", "utime", "write", "writev",
}  # fmt: skip
METHOD_CHANGES = {
    "chmod", "hardlink_to", "mkdir", "rename", "rmdir", "save", "save_file", "savez",
    "savez_compressed", "symlink_to", "tofile", "touch", "unlink", "write_bytes", "write_text",
}  # fmt: skip
SHUTIL_READS = {"disk_usage", "get_terminal_size", "which"}


def changes(node: ast.Call) -> bool:
    """Whether a call may change a file."""
    match node.func:
        case ast.Name("open") | ast.Attribute(ast.Name("io"), "open"):
            return writes(node.args[1:2], node)
        case ast.Attribute(_, "open") if not is_module(node.func, "os"):
            return writes(node.args[:1], node)
        case ast.Name("save_file"):
            return True
        case ast.Attribute(ast.Name("fs"), _):
            return False
        case ast.Attribute(ast.Name("os"), name):
            return name in OS_CHANGES or (name == "open" and "O_CREAT" in ast.unparse(node))
        case ast.Attribute(ast.Name("shutil"), name):
            return name not in SHUTIL_READS
        case ast.Attribute(ast.Name("tempfile"), _):
            return True
        case ast.Attribute(_, name):
            return name in METHOD_CHANGES
    return False


def is_module(function: ast.Attribute, name: str) -> bool:
    return isinstance(function.value, ast.Name) and function.value.id == name


def writes(mode: list[ast.expr], node: ast.Call) -> bool:
    given = [*mode, *(k.value for k in node.keywords if k.arg == "mode")]
    return any(not (isinstance(m, ast.Constant) and set(str(m.value)) <= set("rbt")) for m in given)


def offences(text: str, permitted: set[str] = frozenset()) -> list[str]:
    tree = ast.parse(text)
    allowed = {
        id(inner)
        for f in ast.walk(tree)
        if isinstance(f, ast.FunctionDef) and f.name in permitted
        for inner in ast.walk(f)
    }
    return [
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and changes(node) and id(node) not in allowed
    ]


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_files_are_changed_through_the_seam_only(path):
    """In storage/ too: there the calls are arguments of `change`, never made directly."""
    relative = path.relative_to(ROOT)
    if relative.parts[0] == ELSEWHERE:
        return
    permitted = PERMITTED.get(relative.as_posix(), set())
    assert offences(path.read_text(), permitted) == []


@pytest.mark.parametrize(
    "line",
    [
        "open(p, 'w')", "open(p, mode='ab')", "p.open('x')", "open(p, 'r+')", "open(p, m)",
        "os.rename(a, b)", "os.open(p, os.O_CREAT | os.O_WRONLY)", "shutil.rmtree(p)",
        "save_file(t, p)", "safetensors.numpy.save_file(t, p)", "np.savez(p, a)", "p.write_text(s)",
        "p.mkdir()", "a.tofile(p)", "tempfile.mkdtemp()",
    ],
)  # fmt: skip
def test_what_the_rule_finds(line):
    assert offences(line)


@pytest.mark.parametrize(
    "line",
    ["open(p)", "open(p, 'rb')", "p.open()", "os.open(p, os.O_RDONLY)", "s.replace(a, b)",
     "fs.change('unlink', os.unlink, p)", "shutil.disk_usage(p)", "p.read_text()"],
)  # fmt: skip
def test_what_the_rule_allows(line):
    assert not offences(line)
