"""Pipelines with broken, missing or strange parts: what is refused, kept or left out."""

from __future__ import annotations

import json
import logging
import os
import shutil

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bonsai_quant import convert, plan
from bonsai_quant.conversion.convert import write_packs
from bonsai_quant.core.errors import BadInput, EnvironmentFault, Unsupported
from bonsai_quant.packs.deployment import hqq_process
from bonsai_quant.packs.pipeline import locate
from bonsai_quant.sources.components import find_components

from .conftest import ENCODER, MODE


def remove(path):
    return lambda source: (source / path).unlink()


def change(path, **fields):
    def act(source):
        said = json.loads((source / path).read_text())
        (source / path).write_text(json.dumps(said | fields))

    return act


def drop_tensor(source):
    path = source / "text_encoder/model.safetensors"
    tensors = load_file(path)
    tensors.pop("model.norm.weight")
    save_file(tensors, path, {"format": "pt"})


def spoil(value):
    def act(source):
        path = source / "text_encoder/model.safetensors"
        tensors = load_file(path)
        tensors["model.layers.2.mlp.up_proj.weight"][3, 5] = value
        save_file(tensors, path, {"format": "pt"})

    return act


@pytest.mark.parametrize(("breaking", "words"), [
    (remove("text_encoder/model.safetensors"), "text encoder: holds no .safetensors"),
    (remove("text_encoder/config.json"), "text encoder: has no config.json"),
    (change("text_encoder/config.json", model_type="llama"), "not a Qwen3"),
    (change("text_encoder/config.json", hidden_size=128), "its config calls for"),
    (change("text_encoder/config.json", head_dim=0), "head_dim = 0"),
    (change("text_encoder/config.json", num_hidden_layers=29), "is missing"),
    (change("text_encoder/config.json", num_hidden_layers=10**9), "num_hidden_layers"),
    (drop_tensor, "is missing"),
    (spoil(np.nan), "nan does not fit bf16"),
    (remove("tokenizer/tokenizer.json"), "tokenizer: has no tokenizer.json"),
    (lambda s: shutil.rmtree(s / "vae"), "vae: is missing"),
    (change("vae/config.json", _class_name="AutoencoderKL"), "not AutoencoderKLFlux2"),
    (lambda s: (s / "vae/diffusion_pytorch_model.safetensors").write_bytes(b"x" * 40), "vae: "),
    (remove("scheduler/scheduler_config.json"), "scheduler: has no scheduler_config.json"),
])  # fmt: skip
def test_a_broken_part_is_named(source, tmp_path, breaking, words):
    breaking(source)
    with pytest.raises((BadInput, Unsupported)) as e:
        convert(str(source), formats="mlx", out=tmp_path / "out", **MODE)
    assert words in str(e.value)
    assert "--transformer-only" in str(e.value)
    assert not (tmp_path / "out").exists()
    convert(str(source), formats="mlx", out=tmp_path / "out", transformer_only=True, **MODE)


def test_what_does_not_belong_is_left_out(source, tmp_path, caplog):
    secret = tmp_path / "secret.json"
    secret.write_text('{"token": "hf_verysecret"}')
    (source / "tokenizer/.env.json").write_text("hidden")
    (source / "tokenizer/token.json").symlink_to(secret)
    (source / "tokenizer/a name.json").write_text("{}")
    (source / "tokenizer/run.py").write_text("import os")
    (source / "tokenizer/more").mkdir()
    os.mkfifo(source / "tokenizer/pipe.json")
    (source / "LICENSE").symlink_to(secret)
    (source / "vae/.cache").mkdir()
    with caplog.at_level(logging.INFO):
        convert(str(source), formats="mlx", out=tmp_path / "out", **MODE)
    mlx = tmp_path / "out/mlx"
    assert {p.name for p in (mlx / "tokenizer").iterdir()} == {
        "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
    }  # fmt: skip
    assert "hf_verysecret" not in "".join(p.read_text() for p in mlx.rglob("*.json"))
    assert not (mlx / "LICENSE").exists()
    for name in (".env.json", "token.json", "a name.json", "run.py", "more", "pipe.json"):
        assert f"{name}: is left out" in caplog.text


def test_a_part_that_is_a_link_out_of_the_pipeline(source, tmp_path):
    (source / "tokenizer").rename(tmp_path / "elsewhere")
    (source / "tokenizer").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with pytest.raises(BadInput, match="tokenizer: is a link that leaves"):
        plan(str(source), formats="mlx", **MODE)


def test_papers_come_along(source, tmp_path):
    for name in ("LICENSE.md", "NOTICE", "README.md", "LICENSES.exe"):
        (source / name).write_text(f"the {name}")
    convert(str(source), formats="mlx", out=tmp_path / "out", **MODE)
    mlx = tmp_path / "out/mlx"
    assert (mlx / "LICENSE.md").read_text() == "the LICENSE.md"
    assert (mlx / "NOTICE").exists()
    assert not (mlx / "LICENSES.exe").exists()


def test_widths_without_whole_groups_stay_in_16_bits(source, tmp_path, caplog):
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(vocab_size=43, hidden_size=96, intermediate_size=128, num_hidden_layers=2,
                         num_attention_heads=2, num_key_value_heads=1, head_dim=32,
                         tie_word_embeddings=False)  # fmt: skip
    shutil.rmtree(source / "text_encoder")
    Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(source / "text_encoder")
    with caplog.at_level(logging.INFO):
        convert(str(source), formats="mlx", out=tmp_path / "out", **MODE)
    stored = load_file(tmp_path / "out/mlx" / ENCODER / "model.safetensors")
    assert stored["model.layers.0.mlp.up_proj.weight"].dtype == ml_dtypes.bfloat16
    assert stored["model.layers.0.mlp.down_proj.weight"].dtype == np.uint32
    assert stored["lm_head.weight"].shape == (43, 96)
    assert "model.layers.0.mlp.up_proj.weight: stays in 16 bits" in caplog.text
    mlx_lm = pytest.importorskip("mlx_lm")
    import mlx.core as mx

    model, _ = mlx_lm.utils.load_model(tmp_path / "out/mlx" / ENCODER)
    ids = [[1, 2, 3, 4]]
    mine = np.array(model(mx.array(ids)).astype(mx.float32))
    theirs = Qwen3ForCausalLM.from_pretrained(source / "text_encoder", dtype=torch.float32)
    with torch.no_grad():
        logits = theirs(torch.tensor(ids)).logits.numpy()
    assert np.linalg.norm(mine - logits) < 0.3 * np.linalg.norm(logits)


def test_a_pipeline_that_needs_guidance_says_so(source, tmp_path):
    change("model_index.json", is_distilled=False)(source)
    convert(str(source), formats="mlx", out=tmp_path / "out", **MODE)
    pipeline = locate(str(tmp_path / "out/mlx"))
    assert (pipeline.distilled, pipeline.pack is not None) == (False, True)


def test_a_child_that_fails_is_explained(standin, tmp_path, monkeypatch):
    pytest.importorskip("hqq")
    monkeypatch.setattr(hqq_process, "CHILD", "bonsai_quant.no_such_module")
    with pytest.raises(EnvironmentFault, match="hqq ended with code 1: .*no_such_module"):
        convert(str(standin), formats="gemlite", out=tmp_path / "out", **MODE)
    assert not (tmp_path / "out").exists()


def test_a_part_that_changes_during_the_run(source, tmp_path, monkeypatch):
    work = plan(str(source), formats="mlx", **MODE)
    path = source / "tokenizer/tokenizer.json"
    path.write_text(path.read_text() + " ")
    with pytest.raises(BadInput, match="changed during the run"):
        write_packs(work, tmp_path / "out")


def test_nothing_else_is_a_whole_pipeline(source, tmp_path):
    assert find_components(source) is not None
    assert find_components(source / "transformer") is None
    change("model_index.json", _class_name="FluxPipeline")(source)
    assert find_components(source) is None
