"""Group B: configs and layouts that do not fit the weights, or that try to mislead."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .conftest import (
    INDEX,
    MATRIX,
    MODE,
    NORM,
    SINGLE_FILE,
    STRICT,
    edit,
    original,
    put,
    save,
    save_shards,
    tiny,
)

CONFIGS = {
    "B42-empty-file": (lambda t: b"", 3, ("not JSON",)),
    "B42-empty-object": (lambda t: b"{}", 4, ("Flux2Transformer2DModel",)),
    "B42-list": (lambda t: b"[]", 3, ("not an object",)),
    "B42-flux1": (put("_class_name", value="FluxTransformer2DModel"), 4,
                  ("FluxTransformer2DModel", "Flux2Transformer2DModel")),
    "B42-class-is-a-list": (put("_class_name", value=["x"] * 999), 4, ("Flux2Transformer2DModel",)),
    "B42-klein-9b": (put("joint_attention_dim", value=12288), 3,
                     ("joint_attention_dim", "12288", "128", "context_embedder")),
    "B43-layers": (put("num_layers", value=5), 3, ("num_layers", "5", "2", "transformer_blocks")),
    "B43-heads": (put("num_attention_heads", value=24), 3, ("num_attention_heads", "24", "2")),
    "B43-head-size": (put("attention_head_dim", value=128), 3, ("attention_head_dim", "norm_q")),
    "B43-in": (put("in_channels", value=16), 3, ("in_channels", "16", "64", "x_embedder")),
    "B43-out": (put("out_channels", value=16), 3, ("out_channels", "16", "proj_out")),
    "B43-ratio": (put("mlp_ratio", value="3"), 3, ("mlp_ratio", "linear_out")),
    "B43-guidance": (put("guidance_embeds", value=True), 3, ("guidance_embeds", "True")),
    "B43-time": (put("timestep_guidance_channels", value=[64]), 3, ("timestep_guidance_channels",)),
    "B43-rope-text": (put("rope_theta", value="2000; rm -rf"), 3, ("rope_theta",)),
    "B43-rope-infinite": (put("rope_theta", value=1e308), 3, ("rope_theta",)),
    "B43-axes-deep": (put("axes_dims_rope", value=[[32]]), 3, ("axes_dims_rope",)),
    "B43-axes-many": (put("axes_dims_rope", value=[1] * 10**5), 3, ("axes_dims_rope",)),
    "B43-eps-true": (put("eps", value=True), 3, ("eps",)),
    "B36-field-twice": (lambda t: b'{"eps":1,"eps":2}', 3, ("'eps'", "twice")),
    "B50-deep": (lambda t: b'{"a":' * 100_000, 3, ("nested",)),
}  # fmt: skip


@pytest.mark.parametrize("case", CONFIGS)
def test_configs_that_do_not_fit(case, folder, refuse):
    change, code, says = CONFIGS[case]
    edit(folder / "config.json", change)
    assert len(refuse(code, folder, "config.json", *says, within=2)) < 1000


def test_b42_a_missing_config_is_a_warning_or_an_error(folder, accept, refuse):
    (folder / "config.json").unlink()
    refuse(3, folder, "config.json", options=STRICT)
    lines = accept(folder).err.splitlines()
    assert len(lines) == 1 and "config.json" in lines[0]


def test_b43_out_channels_may_repeat_in_channels(folder, accept):
    edit(folder / "config.json", put("out_channels", value=64))
    accept(folder)


@pytest.mark.parametrize("name", [INDEX, "config.json"])
def test_b50_200_megabytes_of_json_are_not_read(name, folder, refuse):
    os.truncate(folder / name, 200 << 20)
    refuse(3, folder, name, str(200 << 20), within=1)


EVIL = {
    "auto_map": {"AutoModel": "canary--Evil", "Flux2Transformer2DModel": "canary.Evil"},
    "custom_pipeline": "canary",
    "trust_remote_code": True,
    "_name_or_path": "http://127.0.0.1:9/evil",
    "_diffusers_version": "0.0.0; import canary",
    "quantization_config": {"quant_method": "canary", "modules": "os.system"},
    "model_file": "canary.py",
}


def test_b44_code_and_addresses_in_a_config_are_ignored(folder, run, tmp_path, monkeypatch):
    (folder / "canary.py").write_text(f"open({str(tmp_path / 'fired')!r}, 'w')\nclass Evil: pass\n")
    (folder / "pipeline.py").write_text((folder / "canary.py").read_text())
    edit(folder / "config.json", lambda t: t.update(EVIL))
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)

    def connected(*_: Any) -> None:
        (tmp_path / "fired").touch()

    monkeypatch.setattr(socket.socket, "connect", connected)
    monkeypatch.setattr(subprocess, "Popen", connected)
    formats = "bonsai,mlx,gemlite,unpacked"
    result = run("convert", ".", *MODE, "-f", formats, "-o", tmp_path / "out")
    assert result.code == 0, result.err
    assert not (tmp_path / "fired").exists() and "canary" not in sys.modules
    for path in (tmp_path / "out").rglob("*.json"):
        assert "canary" not in path.read_text() and "evil" not in path.read_text()


@pytest.mark.parametrize("layout", ["diffusers", "original"])
def test_b45_the_usual_prefix_is_taken_off(layout, tmp_path, accept):
    weights = tiny() if layout == "diffusers" else original(tiny())
    plain = save(tmp_path / "plain" / SINGLE_FILE, weights)
    prefixed = {f"model.diffusion_model.{n}": w for n, w in weights.items()}
    path = save(tmp_path / "prefixed" / SINGLE_FILE, prefixed)
    one, two = accept(plain, out="one"), accept(path, "--verbose", out="two")
    assert "prefix model.diffusion_model." in two.err
    assert (one.pack / SINGLE_FILE).read_bytes() == (two.pack / SINGLE_FILE).read_bytes()


def test_b45_both_layouts_in_one_file(tmp_path, refuse):
    path = save(tmp_path / SINGLE_FILE, original(tiny()) | tiny())
    refuse(3, path, path.name, "diffusers", "original")


def test_b45_a_tensor_with_and_without_prefix(tmp_path, refuse):
    weights = tiny()
    weights[f"model.diffusion_model.{MATRIX}"] = weights[MATRIX]
    path = save(tmp_path / SINGLE_FILE, weights)
    refuse(3, path, path.name, MATRIX)


def without(prefix: str) -> Any:
    return lambda w: {n: t for n, t in w.items() if not n.startswith(prefix)}


def renamed(old: str, new: str) -> Any:
    return lambda w: {n.replace(old, new): t for n, t in w.items()}


def more(name: str) -> Any:
    return lambda w: w | {name: w[MATRIX]}


NAMES = {
    "B46-a-block-missing": (without("transformer_blocks.0."), ("lacks 16", "blocks.0.")),
    "B46-half-a-block": (without("transformer_blocks.1.attn.to"), ("lacks 5", "1.attn.to_k.")),
    "B46-one-missing": (without(MATRIX), ("lacks 1 tensors", MATRIX)),
    "B46-embedder-missing": (without("x_embedder"), ("lacks 1 tensors", "x_embedder.weight")),
    "B46-no-double-blocks": (without("transformer_blocks"), ("transformer_blocks.0",)),
    "B46-an-extra-block": (more("transformer_blocks.2.attn.to_q.weight"),
                           ("lacks 15 tensors", "transformer_blocks.2.")),
    "B46-block-9999": (more("transformer_blocks.9999.attn.to_q.weight"), ("lacks 159967 tensors",)),
    "B46-block-10000": (more("transformer_blocks.10000.attn.to_q.weight"), ("blocks.10000.",)),
    "B46-block-00": (more("transformer_blocks.00.attn.to_q.weight"), ("transformer_blocks.00",)),
    "B46-an-extra-tensor": (more("extra.weight"), ("1 tensors of no known use: extra.weight",)),
    "B46-misspelt": (renamed(MATRIX, MATRIX.replace("to_q", "toq")),
                     (MATRIX.replace("to_q", "toq"), f"meant {MATRIX}?")),
    "B46-embedder-misspelt": (renamed("x_embedder", "x_embeder"), ("meant x_embedder.weight?",)),
    "B46-a-bias": (more(MATRIX.replace("weight", "bias")), ("to_q.bias",)),
}  # fmt: skip


@pytest.mark.parametrize("case", NAMES)
def test_b46_missing_and_unexpected_tensors(case, tmp_path, refuse):
    change, says = NAMES[case]
    path = save(tmp_path / SINGLE_FILE, change(tiny()))
    refuse(3, path, path.name, *says, within=3)


def test_b46_a_known_width_with_another_depth_is_a_doubt(tmp_path, run):
    """What Klein 4B looks like without its last block, as far as names and shapes go."""
    from bonsai_quant.core.schema import StoredTensor
    from bonsai_quant.sources.families import detect, flux2

    sizes = {"h": 3072, "i": 128, "o": 128, "j": 7680, "t": 256, "d": 128, "m": 9216}
    for counts, doubts in (((5, 20), 0), ((5, 19), 1), ((4, 20), 1)):
        specs, _ = flux2.dense_specs(counts, sizes)
        model = detect({s.name: StoredTensor(s, tmp_path, 0) for s in specs}, "x")
        assert len(model.doubts) == doubts
        assert (model.base == "flux2-klein-4b") is not bool(doubts)


BUNDLES = ("text_encoders.qwen.layers.0.weight", "vae.decoder.conv_in.weight",
           "first_stage_model.x.weight", "conditioner.x.weight")  # fmt: skip


@pytest.mark.parametrize("name", BUNDLES)
def test_b47_bundles_say_how_much_is_not_the_transformer(name, tmp_path, refuse):
    path = save(tmp_path / SINGLE_FILE, more(name)(more(f"{name}.b")(tiny())))
    refuse(4, path, path.name, "2 tensors of other parts", name)


OTHERS = {
    "B48-mlx": (more(MATRIX.replace("weight", "scales")), "already quantized"),
    "B48-gptq": (renamed("to_q.weight", "to_q.qweight"), "already quantized"),
    "B48-gemlite": (renamed("to_q.weight", "to_q.W_q"), "already quantized"),
    "B48-bnb-4": (more(f"{MATRIX}.quant_state.bitsandbytes__nf4"), "already quantized"),
    "B48-bnb-8": (more(MATRIX.replace("weight", "SCB")), "already quantized"),
    "B48-fp8-scaled": (more(MATRIX.replace("weight", "scale_weight")), "already quantized"),
    "B48-fp8": (more(f"{MATRIX}_scale"), "already quantized"),
    "B48-lora-only": (lambda w: {
        MATRIX.replace("weight", f"lora_{k}.weight"): w[MATRIX] for k in "AB"}, "LoRA"),
    "B48-kohya-lora": (lambda w: {"lora_unet_a.lora_down.weight": w[MATRIX]}, "LoRA"),
    "B42-flux1": (lambda w: {"double_blocks.0.img_mod.lin.weight": w[MATRIX]}, "FLUX.1"),
    "B42-flux1-diffusers": (more("transformer_blocks.0.norm1.linear.weight"), "FLUX.1"),
    "B42-another-model": (lambda w: {"model.layers.0.weight": w[MATRIX]}, "none of the known"),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHERS)
def test_b48_other_kinds_of_checkpoints_are_named(case, tmp_path, refuse):
    change, kind = OTHERS[case]
    path = save(tmp_path / SINGLE_FILE, change(tiny()))
    refuse(4, path, path.name, kind)


def test_b48_a_pack_is_not_a_source(tmp_path, accept, refuse):
    pack = accept(save(tmp_path / SINGLE_FILE, tiny()), out="packed").pack
    refuse(4, pack / "model.safetensors", "already quantized")


GLOBALS = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_guidance_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_guidance_embed.timestep_embedder.linear_2",
    "double_stream_modulation_img.lin": "double_stream_modulation_img.linear",
    "double_stream_modulation_txt.lin": "double_stream_modulation_txt.linear",
    "single_stream_modulation.lin": "single_stream_modulation.linear",
    "final_layer.linear": "proj_out",
}
DOUBLE = {
    "img_attn.proj.weight": "attn.to_out.0",
    "txt_attn.proj.weight": "attn.to_add_out",
    "img_attn.norm.query_norm.scale": "attn.norm_q",
    "img_attn.norm.key_norm.scale": "attn.norm_k",
    "txt_attn.norm.query_norm.scale": "attn.norm_added_q",
    "txt_attn.norm.key_norm.scale": "attn.norm_added_k",
    "img_mlp.0.weight": "ff.linear_in",
    "img_mlp.2.weight": "ff.linear_out",
    "txt_mlp.0.weight": "ff_context.linear_in",
    "txt_mlp.2.weight": "ff_context.linear_out",
}
SINGLE = {
    "linear1.weight": "attn.to_qkv_mlp_proj",
    "linear2.weight": "attn.to_out",
    "norm.query_norm.scale": "attn.norm_q",
    "norm.key_norm.scale": "attn.norm_k",
}


def fused(ours: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Original names, written down here once more, apart from the tables of the program."""
    made = {f"{a}.weight": ours[f"{b}.weight"] for a, b in GLOBALS.items()}
    scale, shift = np.split(ours["norm_out.linear.weight"], 2)
    made["final_layer.adaLN_modulation.1.weight"] = np.concatenate([shift, scale])
    for i in range(2):
        for theirs, names in (
            ("img_attn", ("to_q", "to_k", "to_v")),
            ("txt_attn", ("add_q_proj", "add_k_proj", "add_v_proj")),
        ):
            parts = [ours[f"transformer_blocks.{i}.attn.{n}.weight"] for n in names]
            made[f"double_blocks.{i}.{theirs}.qkv.weight"] = np.concatenate(parts)
        for theirs, name in DOUBLE.items():
            made[f"double_blocks.{i}.{theirs}"] = ours[f"transformer_blocks.{i}.{name}.weight"]
        for theirs, name in SINGLE.items():
            made[f"single_blocks.{i}.{theirs}"] = ours[
                f"single_transformer_blocks.{i}.{name}.weight"
            ]
    return made


def weight_files(out: Path) -> dict[str, bytes]:
    kinds = (".safetensors", ".pt", ".csv")
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.suffix in kinds}


@pytest.mark.parametrize("mode", ["ternary", "binary"])
def test_b49_both_layouts_give_the_same_pack(mode, tmp_path, run):
    made = {}
    shuffled = sorted(fused(tiny()).items(), key=lambda item: item[0][::-1])
    sources = {
        "shards": save_shards(tmp_path / "shards", 3),
        "original": save(tmp_path / "a" / SINGLE_FILE, fused(tiny())),
        "shuffled": save(tmp_path / "b" / SINGLE_FILE, dict(shuffled)),
    }
    for name, source in sources.items():
        out = tmp_path / f"out-{name}"
        options = ("--mode", mode, "-f", "bonsai,mlx,gemlite,unpacked", "-o", out)
        assert run("convert", source, *options).code == 0
        made[name] = weight_files(out)
    assert made["shards"] == made["original"] == made["shuffled"]
    assert len(made["shards"]) == 8


@pytest.mark.parametrize("rows", [383, 385, 128])
def test_b49_fused_rows_that_are_not_three_times_the_width(rows, tmp_path, refuse):
    weights, name = original(tiny()), "double_blocks.1.img_attn.qkv.weight"
    weights[name] = np.resize(weights[name], (rows, 128))
    path = save(tmp_path / SINGLE_FILE, weights)
    refuse(3, path, f"tensor {name}", f"[{rows}, 128]", "[384, 128]")


def test_b49_a_norm_of_another_head_size(tmp_path, refuse):
    weights = tiny()
    weights[NORM] = weights[NORM][:32].copy()
    path = save(tmp_path / SINGLE_FILE, weights)
    refuse(3, path, f"tensor {NORM}", "[32]", "[64]")
