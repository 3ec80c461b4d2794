"""What the program says to install is what works: from a clone, from elsewhere, from an index."""

from __future__ import annotations

import shlex
import tomllib

import pytest
from packaging.requirements import Requirement

from bonsai_quant.core import requirements, version
from tests.docs.blocks import ROOT


def test_in_a_clone_the_clone_is_installed(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    assert requirements.install("run") == "pip install -e '.[run]'"
    monkeypatch.chdir(tmp_path)
    words = shlex.split(requirements.install("run,train"))
    assert words == ["pip", "install", "-e", f"{ROOT}[run,train]"]


def test_without_a_clone_it_comes_from_the_repository(monkeypatch, tmp_path):
    monkeypatch.setattr(requirements, "__file__", str(tmp_path / "a/b/c.py"))
    words = shlex.split(requirements.install("mlx"))
    assert words[:2] == ["pip", "install"]
    wanted = Requirement(words[2])
    assert (wanted.name, wanted.extras) == ("bonsai-quant", {"mlx"})
    assert wanted.url == f"git+{version.REPOSITORY}"


def test_one_constant_switches_to_the_index(monkeypatch):
    monkeypatch.setattr(requirements, "ON_INDEX", True)
    for command in (requirements.install("run"), requirements.install_anywhere("run")):
        assert command == "pip install 'bonsai-quant[run]'"


def test_the_repository_is_the_project_s():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["urls"]["Repository"] == version.REPOSITORY


@pytest.mark.parametrize("place", ["bonsai_quant", "docs", "examples"])
def test_nothing_else_says_that_it_is_on_an_index(place):
    """What is typed out by hand names the clone, as long as nothing is on the index."""
    assert not version.ON_INDEX, "the pages may say `pip install bonsai-quant` now"
    texts = {p: p.read_text() for e in ("py", "md", "html") for p in (ROOT / place).rglob(f"*.{e}")}
    said = [p for p, text in texts.items() if "pip install 'bonsai-quant" in text]
    said += [p for p, text in texts.items() if "pip install bonsai-quant" in text]
    assert [p for p in said if p.name != "version.py"] == []
