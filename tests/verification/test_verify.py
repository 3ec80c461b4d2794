"""A right pack passes, a wrong one fails at the first wrong thing, and is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from bonsai_quant import verify
from bonsai_quant.packs.read import open_pack
from bonsai_quant.storage import fs
from tests.support import models
from tests.support.forge import exchange, flip, orphan, resign


@pytest.fixture
def copy(packs, tmp_path):
    """A copy of all packs, to be damaged."""
    shutil.copytree(packs.out, tmp_path / "copy")
    return tmp_path / "copy"


def failures(verdict):
    return [(c.level, c.detail) for c in verdict.checks if c.status == "failed"]


def test_right_packs_pass_and_agree_with_the_source(packs):
    verdict = verify(packs.out, against=str(packs.source))
    assert not failures(verdict)
    subjects = [c.subject for c in verdict.checks if c.level == "codes"]
    equal = ["bonsai", *(f"{f} = bonsai" for f in packs.formats[1:])]
    assert subjects[: len(equal)] == equal
    assert subjects[len(equal)].startswith("bonsai = ")


@pytest.mark.parametrize("format_name", ["bonsai", "mlx", "gemlite", "unpacked"])
def test_one_format_alone_passes(packs, format_name):
    assert not failures(verify(packs.out / format_name, against=str(packs.source)))


def test_every_single_bit_of_the_weights_counts(copy):
    folder = copy / "bonsai"
    path = folder / "model.safetensors"
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    for at in [*range(64), *rng.integers(64, len(good), 100).tolist(), len(good) - 1]:
        bad = bytearray(good)
        bad[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(bad)
        ((level, detail),) = failures(verify(folder, level="file"))
        assert level == "file"
        assert "model.safetensors" in detail


@pytest.mark.parametrize("what", ["missing", "short", "link", "extra weights", "extra text"])
def test_files_that_are_not_the_manifests(copy, what):
    path = copy / "mlx/transformer-packed-mflux/diffusion_pytorch_model.safetensors"
    if what == "missing":
        path.unlink()
    elif what == "short":
        path.write_bytes(path.read_bytes()[:-1])
    elif what == "link":
        path.rename(path.parent / "real")
        path.symlink_to("real")
    elif what == "extra weights":
        (path.parent / "model-00009-of-00009.safetensors").write_bytes(b"x")
    else:
        (copy / "mlx" / "NOTES.txt").write_text("a note does no harm")
    found = failures(verify(copy, level="codes"))
    assert bool(found) == (what != "extra text")
    if found:
        assert found[0][0] == "file"
        assert len(found) == 1


def test_a_resigned_flipped_code_is_found_by_comparing_formats(copy):
    name = "transformer_blocks.0.attn.to_q"
    flip(copy / "mlx", f"{name}.weight", 5, 0b11 if "ternary" in open_mode(copy) else 0b1)
    resign(copy / "mlx")
    ((level, detail),) = failures(verify(copy))
    assert level == "codes"
    assert name in detail
    assert "row 0, column" in detail


def open_mode(copy):
    return open_pack(copy / "bonsai").info.mode


def test_a_resigned_flip_in_one_format_alone_is_found_against_the_source(copy, packs):
    flip(copy / "bonsai", "transformer_blocks.0.attn.to_q.scales", 0, 0x08)
    resign(copy / "bonsai")
    assert not failures(verify(copy / "bonsai"))
    ((level, detail),) = failures(verify(copy / "bonsai", against=str(packs.source)))
    assert level == "codes"
    assert "transformer_blocks.0.attn.to_q.weight: row 0, scale 0" in detail


def test_another_source_is_not_this_one(packs, tmp_path):
    other = models.save_folder(tmp_path / "other", models.tensors(seed=1))
    ((level, detail),) = failures(verify(packs.out, against=str(other)))
    assert (level, "expected" in detail or "source" in detail) == ("codes", True)


def test_swapped_layers_are_found_against_the_source(copy, packs):
    folder = copy / "bonsai"
    for part in ("codes", "scales"):
        exchange(folder, *(f"transformer_blocks.0.attn.{n}.{part}" for n in ("to_q", "to_k")))
    resign(folder)
    ((_, detail),) = failures(verify(folder, against=str(packs.source)))
    assert "transformer_blocks.0.attn.to_k" in detail


def test_a_pack_without_a_recipe_is_held_against_its_source_by_likeness(copy, packs):
    orphan(copy / "mlx")
    verdict = verify(copy / "mlx", against=str(packs.source))
    assert not failures(verdict)
    assert "no recipe to repeat" in verdict.checks[-1].detail


@pytest.mark.parametrize("fault", ["layers", "scale", "norm"])
def test_without_a_recipe_gross_faults_are_named_all_the_same(copy, packs, fault):
    folder = copy / "bonsai"
    orphan(folder)
    if fault == "layers":
        for part in ("codes", "scales"):
            exchange(folder, *(f"transformer_blocks.0.attn.{n}.{part}" for n in ("to_q", "to_k")))
        expected = "transformer_blocks.0.attn.to_k.weight: has a cosine of"
    elif fault == "scale":
        flip(folder, "transformer_blocks.0.attn.to_q.scales", 1, 0x10)  # times or over 16
        expected = "transformer_blocks.0.attn.to_q.weight: row 0, group 0: scale"
    else:
        half = open_pack(folder).stored["norm_out.linear.weight"].spec.nbytes // 2
        name = "norm_out.linear.weight"
        exchange(folder, (name, 0, half), (name, half, None))
        expected = "norm_out.linear.weight: has a cosine of"
    ((level, detail),) = failures(verify(folder, against=str(packs.source)))
    assert level == "codes"
    assert detail.startswith(expected)


def test_a_pack_without_our_manifest_is_checked_as_far_as_it_goes(copy):
    for folder in (copy / "mlx", copy / "gemlite"):
        (folder / "manifest.json").write_text('{"model_version": "somebody else\'s"}')
        (folder / "layers.csv").unlink()
        verdict = verify(folder)
        assert [c.status for c in verdict.checks] == ["not run", "passed"]


def test_the_command_line_exits_with_5(copy, run):
    assert run("verify", copy, "--quiet").code == 0
    flip(copy / "bonsai", "proj_out.weight", 0)
    result = run("verify", copy, "--json")
    assert result.code == 5
    assert json.loads(result.out)["failed"] is True


def test_levels_that_are_not_there_are_named(packs, run):
    result = run("verify", packs.out, "--level", "soul")
    assert (result.code, "unknown level 'soul'" in result.err) == (2, True)


@pytest.mark.heavy
def test_kernels_run_on_the_packed_layers(packs):
    verdict = verify(packs.out, level="kernel", layers=1)
    kernels = {c.subject.split(":")[0]: c for c in verdict.checks if c.level == "kernel"}
    assert set(kernels) == {"mlx", "gemlite", "onnx"}
    for check in kernels.values():
        assert check.status in ("passed", "not run"), check.detail
        if check.status == "not run":
            assert "install" in check.detail


def test_one_run_reads_a_manifest_once(packs, monkeypatch):
    paths = []
    read_small = fs.read_small

    def counted(path, *limit):
        paths.append(Path(path))
        return read_small(path, *limit)

    monkeypatch.setattr(fs, "read_small", counted)
    assert not verify(packs.out / "mlx", level="codes").failed
    assert paths.count(packs.out / "mlx" / "manifest.json") == 1
