"""Stock diffusers with the plug-in: the same bits as the dense model, codes packed, saved again."""

from __future__ import annotations

import pytest
import torch
from diffusers import Flux2Transformer2DModel
from safetensors.torch import load_file

from bonsai_quant.diffusers import open_pipeline
from bonsai_quant.diffusers.linear import PackedLinear
from bonsai_quant.packs.find import look

pytestmark = pytest.mark.heavy

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


def test_it_paints_what_the_dense_weights_paint(whole, paint):
    picture = paint()
    assert picture.std() > 0.01
    assert torch.equal(picture, paint(whole.dense))


def test_the_codes_stay_packed(whole, pipeline):
    model = pipeline.transformer
    packed = [m for m in model.modules() if isinstance(m, PackedLinear)]
    assert len(packed) == 32
    assert {m.codes.dtype for m in packed} == {torch.uint8}
    assert {m.scales.dtype for m in packed} == {torch.float16}
    bits = 2 if whole.mode == "ternary" else 1
    weights = sum(m.in_features * m.out_features for m in packed)
    held = sum(b.nbytes for b in model.buffers())
    assert held == weights * bits // 8 + weights // 128 * 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_and_loaded_again_it_is_the_same_to_the_bit(whole, dtype, tmp_path):
    model = Flux2Transformer2DModel.from_pretrained(
        whole.folder, subfolder="transformer", torch_dtype=dtype
    )
    model.save_pretrained(tmp_path / "transformer")
    again = Flux2Transformer2DModel.from_pretrained(
        tmp_path, subfolder="transformer", torch_dtype=dtype
    )
    first, second = model.state_dict(), again.state_dict()
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert value.dtype == second[name].dtype
        assert torch.equal(value, second[name]), name
    if dtype == torch.bfloat16:  # which is what the pack holds
        written, ours = load_file(tmp_path / WEIGHTS), load_file(whole.folder / WEIGHTS)
        assert written.keys() == ours.keys()
        assert all(torch.equal(written[n], t) and written[n].dtype == t.dtype
                   for n, t in ours.items())  # fmt: skip
        assert look(tmp_path).format == "diffusers"


def test_half_precision_computes_with_the_same_weights(whole):
    model = Flux2Transformer2DModel.from_pretrained(
        whole.folder, subfolder="transformer", torch_dtype=torch.bfloat16
    )
    for name, module in model.named_modules():
        if isinstance(module, PackedLinear):
            dense = whole.dense.get_submodule(name).weight
            x = torch.randn(3, module.in_features, dtype=torch.bfloat16)
            assert torch.equal(module.rows(0, module.out_features), dense)
            assert torch.equal(module(x), torch.nn.functional.linear(x, dense.bfloat16()))


def test_open_pipeline_is_from_pretrained_of_the_folder(whole):
    pipe = open_pipeline(whole.folder, torch_dtype=torch.bfloat16)
    assert pipe.transformer.dtype == torch.bfloat16
    assert pipe.transformer.hf_quantizer.quantization_config.bits in (1, 2)


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="what MKL's products do")
def test_rows_at_a_time_give_the_bits_of_the_whole_matrix():
    """The narrowest pieces of Klein 4B: 320 of 3072 rows of 12288 inputs."""
    layer, rng = PackedLinear(3072, 12288, 2, torch.float32), torch.Generator().manual_seed(0)
    codes = torch.randint(0, 3, (3072, 3072), generator=rng, dtype=torch.uint8)
    layer.codes = codes * 0x55  # each code four times
    layer.scales = torch.full((3072, 96), 2.0**-6, dtype=torch.float16)
    assert layer.at_once == 320
    x = torch.randn(8, 12288, generator=rng)
    with torch.inference_mode():
        assert torch.equal(layer(x), torch.nn.functional.linear(x, layer.rows(0, 3072)))


@pytest.mark.parametrize("bits", [1, 2])
def test_a_compiled_layer_computes_the_same(bits):
    layer, rng = PackedLinear(128, 256, bits, torch.float32), torch.Generator().manual_seed(0)
    layer.codes = torch.randint(0, 4, (128, 256 * bits // 8), generator=rng).byte() * 0x15
    layer.scales = torch.rand((128, 2), generator=rng).half()
    x = torch.randn(8, 256, generator=rng)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    with torch.inference_mode():
        assert torch.equal(compiled(x), layer(x))
