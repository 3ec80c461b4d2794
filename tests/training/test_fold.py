"""A folded model computes what the original does, and rounds better where it should."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from diffusers import Flux2Transformer2DModel

from bonsai_quant import calibrate, convert, fold
from bonsai_quant.core.errors import BadInput, OutputExists, UsageError
from bonsai_quant.quantization.solvers import solve
from bonsai_quant.training.fold.transforms import balance, hadamard, mix_heads
from bonsai_quant.training.write_pipeline import WEIGHTS

pytestmark = pytest.mark.heavy

MOVES = ("heads", "scale", "sort", "heads,scale,sort")


@pytest.fixture(scope="module")
def calibration(standin, few, tmp_path_factory):
    out = tmp_path_factory.mktemp("cal") / "out"
    return calibrate(str(standin), out=out, prompts=str(few), n_prompts=3).out


def velocity(folder) -> torch.Tensor:
    model = Flux2Transformer2DModel.from_pretrained(
        folder / "transformer", torch_dtype=torch.float32
    )
    rng = torch.Generator().manual_seed(0)
    axis, one = torch.arange(4), torch.arange(1)
    with torch.no_grad():
        return model(
            hidden_states=torch.randn(2, 16, 64, generator=rng),
            encoder_hidden_states=torch.randn(2, 20, 192, generator=rng),
            timestep=torch.tensor([0.9, 0.3]),
            img_ids=torch.cartesian_prod(one, axis, axis, one),
            txt_ids=torch.cartesian_prod(one, one, one, torch.arange(20)),
            return_dict=False,
        )[0]


@pytest.mark.parametrize("moves", MOVES)
def test_a_folded_model_is_the_same_model(standin, calibration, tmp_path, moves):
    made = fold(str(standin), calibration=calibration, out=tmp_path / "out", moves=moves)
    before, after = velocity(standin), velocity(made.out)
    assert float((before - after).norm() / before.norm()) < 1e-5
    old, new = load_file_f32(standin), load_file_f32(made.out)
    assert old.keys() == new.keys()
    changed = {n for n in old if not np.array_equal(old[n], new[n])}
    assert changed
    assert all("attn" in n or "ff" in n for n in changed)


def load_file_f32(folder):
    from safetensors.torch import load_file as load

    return {n: t.float().numpy() for n, t in load(folder / WEIGHTS).items()}


def test_it_is_a_source_like_any_other(standin, calibration, tmp_path):
    made = fold(str(standin), calibration=calibration, out=tmp_path / "out")
    packs = convert(str(made.out), mode="ternary", out=tmp_path / "packs", formats="bonsai")
    assert packs.manifests["bonsai"].counts.packed == len(made.layers) > 0
    record = json.loads((made.out / "folding.json").read_text())
    assert record["moves"] == ["heads"]
    fold(str(standin), calibration=calibration, out=tmp_path / "out", overwrite=True)
    (tmp_path / "out" / "vae" / "notes.txt").write_text("mine")
    with pytest.raises(OutputExists, match="holds other files"):
        fold(str(standin), calibration=calibration, out=tmp_path / "out", overwrite=True)


def test_hadamard_is_orthogonal():
    h = hadamard()
    np.testing.assert_allclose(h @ h.T, np.eye(128), atol=1e-12)
    assert set(np.round(np.abs(h).ravel() * np.sqrt(128), 12)) == {1.0}


def test_balance_lowers_the_error_that_it_is_made_for():
    rng = np.random.default_rng(0)
    a, c = np.exp(rng.normal(size=128)), np.exp(rng.normal(size=128))

    def cost(d):
        return np.sum(a**2 / d**2) * np.sum(c**2 * d**2)

    d = balance(a, c)
    assert np.exp(np.log(d).mean()) == pytest.approx(1)
    assert cost(d) < cost(np.ones(128))
    for _ in range(50):
        assert cost(d * np.exp(0.1 * rng.normal(size=128))) >= cost(d) * (1 - 1e-9)


def test_heads_with_uneven_channels_round_better():
    rng = np.random.default_rng(1)
    spread = np.exp(rng.normal(size=256))
    value = rng.normal(size=(256, 256)) * spread[:, None]
    out = rng.normal(size=(64, 256)) * np.exp(rng.normal(size=256))
    x = rng.normal(size=(512, 256))

    def off(v, o):
        solved = solve(o.astype(np.float32), "exact", "ternary")
        from bonsai_quant.quantization.dequantize import decoded

        y = x @ v.T
        wrong = y @ decoded(solved.codes, solved.scales, 2).T - y @ o.T
        return np.square(wrong).sum() / np.square(y @ o.T).sum()

    size = np.sqrt(np.mean(np.square(x @ value.T), 0))
    (v,), (o,) = mix_heads([value], [out], size)
    np.testing.assert_allclose(o @ v, out @ value, rtol=1e-8, atol=1e-8)
    assert off(v, o) < 0.7 * off(value, out)


def test_what_is_asked_for_must_be_there(standin, calibration, few, tmp_path):
    with pytest.raises(UsageError, match="unknown move 'head'.*did you mean 'heads'"):
        fold(str(standin), calibration=calibration, out=tmp_path / "out", moves="head")
    with pytest.raises(BadInput):
        fold(str(standin), calibration=tmp_path, out=tmp_path / "out")
    behind = calibrate(
        str(standin), mode="ternary", solver="weighted", out=tmp_path / "cal", prompts=str(few),
        n_prompts=1,
    ).out  # fmt: skip
    with pytest.raises(UsageError, match="behind rounded layers"):
        fold(str(standin), calibration=behind, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
