"""LoRAs that cannot be merged: what is wrong is named, and nothing is written."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from bonsai_quant import convert, plan, verify
from bonsai_quant.conversion.plan import explain
from bonsai_quant.core.errors import BadInput, BonsaiError, Unsupported, UsageError
from tests.support import loras, models
from tests.support.loras import ALPHA, RANK, ones

Q = "transformer.transformer_blocks.0.attn.to_q"


def good():
    """A right pair for one layer."""
    return {f"{Q}.lora_A.weight": np.ones((RANK, 128), np.float32),
            f"{Q}.lora_B.weight": np.ones((128, RANK), np.float32)}  # fmt: skip


def changed(**parts):
    """`good` with other or further tensors of the layer; None takes one away."""
    names = {"A": "lora_A.weight", "B": "lora_B.weight"}
    tensors = good() | {f"{Q}.{names.get(k, k)}": v for k, v in parts.items()}
    return {n: t for n, t in tensors.items() if t is not None}


BAD = {
    "no up": (changed(B=None), BadInput, "stands without its lora_B"),
    "no down": (changed(A=None), BadInput, "stands without its lora_A"),
    "width": (changed(A=ones(RANK, 64)), BadInput, r"expected \[rank, 128\]"),
    "height": (changed(B=ones(64, RANK)), BadInput, r"expected \[128, 4\]"),
    "ranks": (changed(B=ones(128, 8)), BadInput, r"expected \[128, 4\]"),
    "rank 0": (changed(A=ones(0, 128), B=ones(128, 0)), BadInput, "rank"),
    "conv": (changed(A=ones(RANK, 128, 1, 1)), Unsupported, "two axes"),
    "nan": (changed(A=np.full((RANK, 128), np.nan, np.float32)), BadInput, "not finite"),
    "inf": (changed(B=np.full((128, RANK), np.inf, np.float32)), BadInput, "not finite"),
    "int8": (changed(A=ones(RANK, 128, dtype=np.int8)), Unsupported, "dtype I8"),
    "alpha 0": (changed(alpha=np.zeros((), np.float32)), BadInput, "above 0"),
    "alpha nan": (changed(alpha=np.array(np.nan, np.float32)), BadInput, "not finite"),
    "alphas": (changed(alpha=ones(2)), BadInput, "expected one number"),
    "dora": (changed(dora_scale=ones(128, 1)), Unsupported, "is DoRA"),
    "dora of peft": (changed(lora_magnitude_vector=ones(128)), Unsupported, "is DoRA"),
    "loha": (changed(hada_w1_a=ones(4, 4)), Unsupported, "is LoHa"),
    "lokr": (changed(lokr_w1=ones(4, 4)), Unsupported, "is LoKr"),
    "locon": (changed(**{"lora_mid.weight": ones(4, 4, 3, 3)}), Unsupported, "convolution"),
    "bias": (changed(**{"lora_B.bias": ones(128)}), Unsupported, "is a bias"),
    "diff_b": (changed(diff_b=ones(128)), Unsupported, "is a bias"),
    "diff": (changed(diff=ones(128, 128)), Unsupported, "full weight or difference"),
    "twice": (good() | {f"diffusion_model.{n.removeprefix('transformer.')}": t
                        for n, t in good().items()}, BadInput, "once more"),
    "fused too": (good() | {"double_blocks.0.img_attn.qkv.lora_A.weight": ones(RANK, 128),
                            "double_blocks.0.img_attn.qkv.lora_B.weight": ones(384, RANK)},
                  BadInput, "is for rows that"),
    "other model": ({"transformer.layers.0.lora_A.weight": ones(4, 4)}, Unsupported, "no module"),
    "a norm": ({f"{Q.replace('to_q', 'norm_q')}.lora_A.weight": ones(4, 4)}, Unsupported,
               "no module"),
    "part": (good() | {"text_encoder.q_proj.lora_A.weight": ones(4, 4),
                       "lora_te_q_proj.lora_down.weight": ones(4, 4)},
             Unsupported, r"2 modules that are not the transformer's \(lora_te_q_proj, text_enc"),
    "nothing": ({}, BadInput, "holds no tensors"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_merged_is_named(name, tiny, tmp_path):
    tensors, kind, words = BAD[name]
    file = loras.save(tmp_path / "l.safetensors", tensors)
    with pytest.raises(kind, match=words) as e:
        plan(str(tiny), mode="ternary", lora=[str(file)])
    assert str(file) in str(e.value)
    assert e.value.hint


def test_other_modules_are_left_out_when_asked(tiny, tmp_path, run):
    file = loras.save(tmp_path / "l.safetensors", BAD["part"][0])
    asked = ("--mode", "ternary", "--lora", file, "--lora-partial", "--format", "bonsai")
    made = run("convert", tiny, *asked, "-o", tmp_path / "out")
    assert made.code == 0
    assert "lora l.safetensors: 1 of 3 modules matched" in made.out
    source = json.loads((tmp_path / "out/bonsai/manifest.json").read_text())["source"]
    assert (source["lora"][0]["modules"], source["lora"][0]["ignored"]) == (1, 2)
    assert not verify(tmp_path / "out", against=str(tiny), lora=[str(file)]).failed
    none = loras.save(tmp_path / "n.safetensors", {"text_encoder.q.lora_A.weight": ones(4, 4)})
    assert run("plan", tiny, "--mode", "ternary", "--lora", none, "--lora-partial").code == 4


SETTINGS = {
    "not JSON": ("{", BadInput, "not JSON"),
    "a list": ("[]", BadInput, "not JSON|lora_alpha"),
    "no alpha": ('{"r": 4}', BadInput, "lora_alpha"),
    "bad alpha": ('{"lora_alpha": -1}', BadInput, "lora_alpha"),
    "other kind": ('{"lora_alpha": 1, "peft_type": "LOHA"}', Unsupported, "is a LOHA adapter"),
    "pattern": ('{"lora_alpha": 1, "alpha_pattern": {"a|b": 2}}', Unsupported, "alpha pattern"),
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_that_cannot_be_followed(name, tiny, tmp_path):
    text, kind, words = SETTINGS[name]
    file = loras.save(tmp_path / "l.safetensors", good(), {"lora_adapter_metadata": text})
    with pytest.raises(kind, match=words):
        plan(str(tiny), mode="ternary", lora=[str(file)])


def test_two_alphas_must_agree(tiny, tmp_path):
    tensors = changed(alpha=np.array(ALPHA, np.float32))
    for alpha, fails in ((ALPHA, False), (ALPHA + 1, True)):
        said = {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": alpha})}
        file = loras.save(tmp_path / "l.safetensors", tensors, said)
        if fails:
            with pytest.raises(BadInput, match="the file's settings"):
                plan(str(tiny), mode="ternary", lora=[str(file)])
        else:
            work = plan(str(tiny), mode="ternary", lora=[str(file)])
            (delta,) = explain(work, "transformer_blocks.0.attn.to_q").deltas
            assert delta.factor == ALPHA / RANK


def test_alpha_may_be_an_integer_and_patterns_name_modules(tiny, tmp_path):
    file = loras.save(tmp_path / "i.safetensors", changed(alpha=np.array(8, np.int64)))
    settings = {"lora_alpha": 4, "alpha_pattern": {"attn.to_q": 12, "^proj_out": 2}}
    said = {"lora_adapter_metadata": json.dumps(settings)}
    other = loras.save(tmp_path / "p.safetensors", good(), said)
    work = plan(str(tiny), mode="ternary", lora=[str(file), str(other)])
    assert sorted(d.factor for d in explain(work, Q.removeprefix("transformer.")).deltas) == [2, 3]


def test_files_that_are_no_safetensors(tiny, tmp_path):
    import pickle

    for name, data in (("l.pt", pickle.dumps({"a": 1}, 2)), ("l.ckpt", b"PK\x03\x04" + bytes(60)),
                       ("l.bin", b"")):  # fmt: skip
        (tmp_path / name).write_bytes(data)
        with pytest.raises(BadInput, match=name.replace(".", r"\.")):
            plan(str(tiny), mode="ternary", lora=[str(tmp_path / name)])
    for missing in (tmp_path, tmp_path / "none.safetensors"):
        with pytest.raises(BonsaiError) as e:
            plan(str(tiny), mode="ternary", lora=[str(missing)])
        assert e.value.exit_code == 3


def test_the_same_lora_twice_is_a_mistake(tiny, lora, tmp_path):
    shutil.copy(lora, tmp_path / "copy.safetensors")
    with pytest.raises(UsageError, match="are the same LoRA"):
        plan(str(tiny), mode="ternary", lora=[str(lora), f"{tmp_path / 'copy.safetensors'}:0.3"])


def test_what_becomes_too_large_is_named(tiny, lora, tmp_path):
    for scale, words in (("1e42", "not finite"), ("1e6", "too large for 16 bits")):
        with pytest.raises(BadInput, match=words) as e:
            convert(str(tiny), mode="ternary", lora=[f"{lora}:{scale}"], out=tmp_path / "out")
        assert "lower the LoRA's scale" in str(e.value)


def test_zeros_of_a_broken_download_are_not_hidden(lora, tmp_path):
    name = "transformer_blocks.0.attn.to_q.weight"
    weights = models.tensors()
    weights[name] = np.zeros_like(weights[name])
    source = models.save_folder(tmp_path / "source", weights)
    with pytest.raises(BadInput, match="is all zeros"):
        convert(str(source), mode="ternary", lora=[str(lora)], out=tmp_path / "out")
