"""LoRAs on packed weights, through PEFT: they add what merging would, and leave nothing behind."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from safetensors.torch import save_file

from bonsai_quant.core.errors import Unsupported
from bonsai_quant.diffusers.linear import PackedLinear

pytestmark = pytest.mark.heavy

RANK, ALPHA, SCALE = 8, 4.0, 0.7
ALIKE_DB = 40


@pytest.fixture(autouse=True)
def peft():
    return pytest.importorskip("peft")


@pytest.fixture(scope="module")
def factors(whole):
    """Module -> (A [r, in], B [out, r]), for every linear of the blocks; enough to see."""
    rng, made = torch.Generator().manual_seed(3), {}
    for name, module in whole.dense.requires_grad_(False).named_modules():
        if isinstance(module, torch.nn.Linear) and "transformer_blocks" in name:
            out, n = module.weight.shape
            spread = float(module.weight.std())
            a = torch.randn(RANK, n, generator=rng)
            made[name] = a, spread * torch.randn(out, RANK, generator=rng)
    return made


@pytest.fixture
def file(factors, tmp_path):
    """A LoRA as diffusers writes them, with alpha."""
    tensors = {}
    for name, (a, b) in factors.items():
        tensors[f"transformer.{name}.lora_A.weight"] = a
        tensors[f"transformer.{name}.lora_B.weight"] = b
    said = {"r": RANK, "lora_alpha": ALPHA, "target_modules": sorted(factors),
            "rank_pattern": {}, "alpha_pattern": {}}  # fmt: skip
    settings = json.dumps({f"transformer.{k}": v for k, v in said.items()})
    metadata = {"lora_adapter_metadata": settings}
    save_file(tensors, tmp_path / "lora.safetensors", {"format": "pt"} | metadata)
    return str(tmp_path / "lora.safetensors")


def merged(whole, factors, scale):
    """The dense model with s * t + scale * (alpha / r) * B A, added in float64."""
    model = copy.deepcopy(whole.dense)
    for name, (a, b) in factors.items():
        weight = model.get_submodule(name).weight.data
        weight.copy_(weight.double() + scale * ALPHA / RANK * b.double() @ a.double())
    return model


def psnr(one, other):
    """In dB, of pictures in 0..1."""
    error = float((one - other).double().square().mean())
    return float("inf") if error == 0 else -10 * torch.log10(torch.tensor(error)).item()


def test_a_lora_adds_what_merging_adds_and_goes_without_a_trace(
    whole, pipeline, paint, factors, file
):
    before = paint()
    pipeline.load_lora_weights(file, adapter_name="style")
    pipeline.set_adapters(["style"], [SCALE])
    picture = paint()
    assert psnr(picture, paint(merged(whole, factors, SCALE))) > ALIKE_DB
    assert psnr(picture, before) < 25  # it changes the picture
    pipeline.unload_lora_weights()
    assert torch.equal(paint(), before)
    assert not [n for n, _ in pipeline.transformer.named_modules() if "lora" in n]


def test_the_layers_below_stay_packed(pipeline, factors, file):
    pipeline.load_lora_weights(file)
    packed = {n.removesuffix(".base_layer"): m for n, m in pipeline.transformer.named_modules()
              if isinstance(m, PackedLinear)}  # fmt: skip
    assert factors.keys() == packed.keys()
    assert {m.codes.dtype for m in packed.values()} == {torch.uint8}


@pytest.mark.parametrize("safe", [False, True])
def test_fusing_is_refused(pipeline, file, safe):
    pipeline.load_lora_weights(file)
    with pytest.raises(Unsupported, match="cannot be fused") as e:
        pipeline.fuse_lora(safe_fusing=safe)
    assert "convert SOURCE --lora" in e.value.hint
