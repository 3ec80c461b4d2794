"""The import rules of pyproject.toml hold, and fail when a forbidden import is added to a copy."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.heavy


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter on the package in a folder."""
    command = "from importlinter.cli import lint_imports_command as c; c(['--no-cache'])"
    return subprocess.run(
        [sys.executable, "-c", command], cwd=folder, env={"PYTHONPATH": str(folder)},
        capture_output=True, text=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """The package's code and the rules, without its data."""
    folder = tmp_path_factory.mktemp("copy")
    ignored = shutil.ignore_patterns("data", "__pycache__")
    shutil.copytree(ROOT / "bonsai_quant", folder / "bonsai_quant", ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def test_the_rules_hold(copy):
    done = lint(copy)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


@pytest.mark.parametrize(
    ("file", "line", "rule"),
    [
        ("core/text.py", "import bonsai_quant.storage.fs", "A folder imports only from"),
        ("packs/find.py", "def f():\n    import bonsai_quant.runners.png", "A folder imports only"),
        ("verification/verify.py", "import bonsai_quant.evaluation.score", "A folder imports only"),
        ("storage/fs.py", "import bonsai_quant.storage.folder", "No circles"),
        ("packs/formats/mlx.py", "import bonsai_quant.quantization.solvers", "Formats repack"),
        ("sources/license.py", "import huggingface_hub", "Only hub talks"),
    ],
    ids=["up", "up inside a function", "sideways", "circle", "solver", "hub"],
)
def test_a_forbidden_import_is_found(copy, file, line, rule):
    path = copy / "bonsai_quant" / file
    before = path.read_text()
    path.write_text(f"{before}\n\n{line}\n")
    try:
        done = lint(copy)
    finally:
        path.write_text(before)
    assert done.returncode == 1
    assert any(rule in row and "BROKEN" in row for row in done.stdout.splitlines()), done.stdout


def test_a_new_folder_must_be_given_its_level(copy):
    folder = copy / "bonsai_quant" / "attic"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    try:
        done = lint(copy)
    finally:
        shutil.rmtree(folder)
    assert done.returncode == 1
