"""`verify --level step` and `image`: right packs pass, wrong ones fail where they are wrong."""

from __future__ import annotations

import shutil

import pytest

from bonsai_quant import verify
from bonsai_quant.core.errors import EnvironmentFault
from bonsai_quant.packs.read import open_pack
from bonsai_quant.runners.torch import packed_linear as packed
from tests.support.forge import exchange, flip, orphan, resign

pytestmark = pytest.mark.heavy

BACKENDS = ("torch", "mlx")


@pytest.fixture
def made(standin_packs):
    return standin_packs


@pytest.fixture
def copy(made, tmp_path):
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


def by(verdict, level):
    return [c for c in verdict.checks if c.level == level]


def test_a_right_pack_passes_with_every_runner(made, standin):
    verdict = verify(made, level="image", against=str(standin), backends=BACKENDS)
    assert not verdict.failed
    for level in ("step", "image"):
        found = by(verdict, level)
        assert [c.status for c in found] == ["passed", "passed", "measured"]
        assert ["torch" in found[0].subject, "mlx" in found[1].subject] == [True, True]
    assert "cosine" in by(verdict, "step")[2].detail
    assert "dB to the source's picture" in by(verdict, "image")[2].detail


def test_without_a_source_the_packs_own_states_serve(made, standin):
    verdict = verify(made, level="step", pipeline=str(standin), backends=("torch",))
    (check,) = by(verdict, "step")
    assert check.status == "passed"


def test_without_a_pipeline_steps_are_not_run(made):
    (check,) = by(verify(made, level="step", backends=("torch",)), "step")
    assert (check.status, "--pipeline" in check.detail) == ("not run", True)


def test_without_room_the_dense_model_is_not_loaded(made, standin, monkeypatch):
    def refuse(*_):
        raise EnvironmentFault("the dense transformer in float32 takes 15.5 GB")

    monkeypatch.setattr("bonsai_quant.verification.levels.steps.room_for", refuse)
    monkeypatch.setattr("bonsai_quant.verification.levels.images.room_for", refuse)
    verdict = verify(made, level="image", pipeline=str(standin), backends=("torch",))
    assert [c.status for c in verdict.checks if c.level in ("step", "image")] == ["not run"] * 2
    assert not verdict.failed


def test_a_runner_that_computes_something_else_fails(made, standin, monkeypatch):
    right = packed.PackedLinear.rows
    monkeypatch.setattr(packed.PackedLinear, "rows", lambda *args: right(*args) * 1.001)
    verdict = verify(made, level="image", pipeline=str(standin), backends=BACKENDS)
    failed = [c.subject for c in verdict.checks if c.status == "failed"]
    assert failed and all("torch" in subject for subject in failed)
    assert any(c.level == "step" for c in verdict.checks if c.status == "failed")


FAULTS = ("layers", "scale", "bit", "norm")


def plant(folder, fault):
    """-> the tensor that must be named."""
    block = "transformer_blocks.0.attn"
    if fault == "layers":
        for part in ("codes", "scales"):
            exchange(folder, f"{block}.to_q.{part}", f"{block}.to_k.{part}")
        return f"{block}.to_k"
    if fault == "scale":
        flip(folder, f"{block}.to_v.scales", 1, 0x10)
        return f"{block}.to_v"
    if fault == "bit":
        stored = open_pack(folder).stored[f"{block}.to_v.codes"]
        byte = stored.path.read_bytes()[stored.offset]
        flip(folder, f"{block}.to_v.codes", 0, 1 if byte ^ 1 < 243 else 3)
        return f"{block}.to_v"
    name = "norm_out.linear.weight"
    half = open_pack(folder).stored[name].spec.nbytes // 2
    exchange(folder, (name, 0, half), (name, half, None))
    return name


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_named_at_the_first_level_that_can(copy, standin, fault):
    """Without new hashes by the file level; with them by the codes against the source."""
    folder = copy / "bonsai"
    named = plant(folder, fault)
    (check,) = [c for c in verify(folder, level="image").checks if c.status == "failed"]
    assert (check.level, "model.safetensors" in check.detail) == ("file", True)
    resign(folder)
    failed = [
        c
        for c in verify(folder, level="step", against=str(standin), backends=("torch",)).checks
        if c.status == "failed"
    ]
    assert failed[0].level == "codes"
    assert named in failed[0].detail


@pytest.mark.parametrize("fault", ["layers", "scale", "norm"])
def test_faults_of_a_pack_without_a_recipe_are_named_too(copy, standin, fault):
    folder = copy / "bonsai"
    named = plant(folder, fault)
    orphan(folder)
    (check,) = [c for c in verify(folder, against=str(standin)).checks if c.status == "failed"]
    assert named in check.detail
