"""The demo: the whole loop on the shipped model, with pictures where they can be painted."""

from __future__ import annotations

import importlib
import json

import pytest

from bonsai_quant import verify
from bonsai_quant.core import requirements as needs
from tests.support import pipelines

module = importlib.import_module("bonsai_quant.cli.demo")


@pytest.fixture(autouse=True)
def small(shipped, monkeypatch):
    """The stand-in in mini-klein's place, and few pictures."""
    monkeypatch.setattr(module, "PROMPTS", 1)
    monkeypatch.setattr(module, "IMAGES", 1)
    real = needs.installed
    # hqq takes seconds to import; tests of deployments have it.
    monkeypatch.setattr(needs, "installed", lambda name: None if name == "hqq" else real(name))


@pytest.fixture
def without_kernels(monkeypatch):
    """Verify without running the kernels, which takes its time."""
    monkeypatch.setattr(module, "verify", lambda pack, **_: verify(pack))


def test_the_whole_loop(run, tmp_path):
    result = run("demo", "-o", tmp_path / "demo", "--json")
    assert result.code == 0, result.err
    steps = json.loads(result.out)["steps"]
    for mode in ("ternary", "binary"):
        assert steps[f"verify_{mode}"]["failed"] is False
        kernels = [c for c in steps[f"verify_{mode}"]["checks"] if c["level"] == "kernel"]
        assert {c["status"] for c in kernels} <= {"passed", "not run"}
    pictures = steps["pictures"]
    assert pictures["status"] == "run"
    assert [m["name"].rpartition("/")[2] for m in pictures["scores"]] == [
        "mini-klein", "ternary", "binary",
    ]  # fmt: skip
    assert sorted(p.name for p in (tmp_path / "demo").iterdir()) == [
        "absmean", "binary", "side-by-side.png", "ternary",
    ]  # fmt: skip
    assert run("demo", "-o", tmp_path / "demo").code == 7


def test_its_pictures_are_labelled_a_small_sample(run, tmp_path, monkeypatch, without_kernels):
    from PIL import Image

    pipelines.draw_truth(monkeypatch, lambda place: 1.0 if "binary" in place else 0.0)
    result = run("demo", "-o", tmp_path / "demo")
    assert result.code == 0, result.err
    assert "a small sample" in result.out
    (source,) = (s for s in result.out.splitlines() if s.startswith("mini-klein "))
    assert "100.0 %" in source
    image = Image.open(tmp_path / "demo/side-by-side.png")
    assert image.height > 6 * 128


def test_without_torch_only_the_pictures_are_left_out(run, tmp_path, monkeypatch, without_kernels):
    real = needs.installed
    monkeypatch.setattr(needs, "installed", lambda name: None if name == "torch" else real(name))
    result = run("demo", "-o", tmp_path / "demo")
    assert result.code == 0, result.err
    assert f"not run: torch not installed -> {needs.install('run')}" in result.out
    assert not (tmp_path / "demo/side-by-side.png").exists()
    assert (tmp_path / "demo/binary/mlx").is_dir()
