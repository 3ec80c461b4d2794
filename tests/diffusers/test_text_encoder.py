"""The text encoder of a pipeline for the plug-in: codes in memory, the states of our own runner."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import Flux2KleinPipeline
from safetensors.torch import load_file, save_file
from transformers import Qwen3ForCausalLM

from bonsai_quant import export
from bonsai_quant.core.errors import BadInput, Unsupported
from bonsai_quant.diffusers.text_encoder import FourBitConfig, FourBitLinear, FourBitQuantizer
from bonsai_quant.packs.pipeline import locate
from bonsai_quant.runners import open_runner

pytestmark = pytest.mark.heavy

FILE = "text_encoder/model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A shipped pack as a whole pipeline for the plug-in."""
    import bonsai_quant.diffusers  # noqa: F401

    out = tmp_path_factory.mktemp("plugged") / "whole"
    export("mini-klein-ternary", format="diffusers", out=out, pipeline="mini-klein")
    return out


@pytest.fixture
def broken(folder, tmp_path):
    """A copy of its text encoder, to break."""
    return shutil.copytree(folder / "text_encoder", tmp_path / "text_encoder")


def test_linears_of_the_layers_stay_in_codes(folder):
    encoder = Qwen3ForCausalLM.from_pretrained(folder / "text_encoder")
    packed = {n: m for n, m in encoder.named_modules() if isinstance(m, FourBitLinear)}
    assert len(packed) == 28 * 7
    assert {m.weight.dtype for m in packed.values()} == {torch.uint8}
    weights = sum(m.in_features * m.out_features for m in packed.values())
    assert sum(m.weight.nbytes for m in packed.values()) == weights // 2
    assert encoder.lm_head.weight is encoder.model.embed_tokens.weight


def test_the_states_are_those_of_our_own_runner(folder):
    pipeline = Flux2KleinPipeline.from_pretrained(folder)
    theirs = pipeline.encode_prompt("a red circle", max_sequence_length=32)[0].detach().numpy()
    ours = open_runner(locate(str(folder)), "torch").encode(("a red circle",), 32)
    assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()


def test_saved_and_loaded_again_it_is_the_same_to_the_bit(folder, tmp_path):
    first = Qwen3ForCausalLM.from_pretrained(folder / "text_encoder", dtype=torch.bfloat16)
    first.save_pretrained(tmp_path)
    second = Qwen3ForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    a, b = first.state_dict(), second.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[n], b[n]) and a[n].dtype == b[n].dtype for n in a)
    written, ours = load_file(tmp_path / "model.safetensors"), load_file(folder / FILE)
    assert all(torch.equal(written[n], t) for n, t in ours.items())


@pytest.mark.parametrize("end", ["weight", "scale", "zero_point"])
def test_a_file_that_lacks_a_tensor_is_refused(broken, end):
    path = broken / "model.safetensors"
    tensors = load_file(path)
    tensors.pop(f"model.layers.3.mlp.up_proj.{end}")
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(BadInput, match=rf"lacks model\.layers\.3\.mlp\.up_proj\.{end}"):
        Qwen3ForCausalLM.from_pretrained(broken)


@pytest.mark.parametrize("change", [{"bits": 3}, {"group_size": 7}, {"rotated": True}])
def test_other_settings_are_refused(broken, change):
    config = json.loads((broken / "config.json").read_text())
    config["quantization_config"] |= change
    (broken / "config.json").write_text(json.dumps(config))
    with pytest.raises(Unsupported, match="are read"):
        Qwen3ForCausalLM.from_pretrained(broken)


def test_a_text_encoder_in_full_precision_is_not_rounded():
    with pytest.raises(Unsupported, match="full precision"):
        FourBitQuantizer(FourBitConfig(4, 32), pre_quantized=False)
