"""Packs that are whole deployments: what they hold, and that others read it."""

from __future__ import annotations

import errno
import hashlib
import json
import logging

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bonsai_quant import convert, export, plan
from bonsai_quant.conversion.convert import write_packs
from bonsai_quant.core import requirements as needs
from bonsai_quant.core.errors import BadInput, EnvironmentFault, Unsupported, UsageError
from bonsai_quant.core.requirements import install
from bonsai_quant.packs import whitepaper as published
from bonsai_quant.packs.pipeline import locate
from bonsai_quant.quantization.affine4 import quantize
from bonsai_quant.quantization.bf16 import to_bf16
from bonsai_quant.runners import open_runner
from bonsai_quant.sources.components import TextEncoder
from bonsai_quant.sources.components.text_encoder import shapes
from tests.conversion.test_convert import hashes
from tests.faults.harness import fail, nothing, seam

from .conftest import ENCODER, MODE


@pytest.fixture(scope="module")
def made(standin, tmp_path_factory):
    """An MLX deployment of the stand-in."""
    out = tmp_path_factory.mktemp("deployed") / "out"
    convert(str(standin), formats="bonsai,mlx", out=out, **MODE)
    return out / "mlx"


@pytest.fixture(scope="module")
def for_cuda(standin, tmp_path_factory):
    """A Gemlite deployment of the stand-in, its text encoder made by hqq."""
    pytest.importorskip("hqq")
    out = tmp_path_factory.mktemp("cuda") / "out"
    convert(str(standin), formats="gemlite", out=out, **MODE)
    return out / "gemlite"


@pytest.fixture
def without_hqq(monkeypatch):
    real = needs.installed
    monkeypatch.setattr(needs, "installed", lambda name: None if name == "hqq" else real(name))


def test_every_tensor_is_what_mlx_makes_of_the_source(made, standin):
    mx = pytest.importorskip("mlx.core")
    theirs = mx.load(str(standin / "text_encoder/model.safetensors"))
    ours = mx.load(str(made / ENCODER / "model.safetensors"))
    expected = {}
    with mx.stream(mx.cpu):
        for name, w in theirs.items():
            expected[name] = w
            if w.ndim == 2:
                parts = mx.quantize(w, group_size=64, bits=4)
                module = name.removesuffix(".weight")
                expected[name] = parts[0]
                expected |= {f"{module}.scales": parts[1], f"{module}.biases": parts[2]}
        assert set(ours) == set(expected)
        assert all(mx.array_equal(ours[n], expected[n]).item() for n in ours)


def test_mlx_lm_and_transformers_agree_on_the_text_encoder(made):
    pytest.importorskip("mlx_lm")
    prompts = ("a red circle", "two blue crosses left of a small square")
    torchs, mlxs = (open_runner(locate(str(made)), b).encode(prompts, 20) for b in ("torch", "mlx"))
    assert np.abs(torchs - mlxs).max() < 1e-5 * np.abs(torchs).max()


def test_the_four_bits_stay_near_the_original(made, standin):
    prompts = ("a red circle", "two blue crosses left of a small square")
    a, b = (open_runner(locate(str(p)), "torch").encode(prompts, 20) for p in (made, standin))
    distance = np.linalg.norm(a - b) / np.linalg.norm(b)
    assert 1e-3 < distance < 0.5


@pytest.mark.heavy
def test_torch_reads_hqqs_text_encoder(for_cuda, standin):
    import torch
    from hqq.core.quantize import Quantizer

    state = torch.load(for_cuda / "text_encoder-hqq-4bit/qmodel.pt", weights_only=True)
    source = load_file(standin / "text_encoder/model.safetensors")
    layer = state["model.layers.3.mlp.up_proj"]
    assert (layer["nbits"], layer["group_size"], layer["axis"]) == (4, 64, 1)
    theirs = Quantizer.dequantize(layer["W_q"], layer | {"compute_dtype": torch.float32})
    original = source["model.layers.3.mlp.up_proj.weight"].astype(np.float32)
    assert np.abs(theirs.numpy() - original).max() < np.abs(original).max() / 7
    prompts = ("a red circle", "two blue crosses left of a small square")
    a, b = (open_runner(locate(str(p)), "torch").encode(prompts, 20) for p in (for_cuda, standin))
    assert 1e-3 < np.linalg.norm(a - b) / np.linalg.norm(b) < 0.5


def test_mlx_says_that_hqqs_is_not_for_it(for_cuda):
    pytest.importorskip("mlx_lm")
    with pytest.raises(Unsupported, match="quantized for CUDA"):
        open_runner(locate(str(for_cuda)), "mlx").encode(("a red circle",), 20)


def test_a_deployment_holds_what_clients_open(made, for_cuda, standin):
    for path in ("transformer-packed-mflux/diffusion_pytorch_model.safetensors",
                 "text_encoder-mlx-4bit/model.safetensors", "text_encoder-mlx-4bit/config.json",
                 "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json", "vae/config.json",
                 "vae/diffusion_pytorch_model.safetensors",
                 "scheduler/scheduler_config.json"):  # fmt: skip
        assert (made / path).is_file(), path
    for path in ("text_encoder-hqq-4bit/qmodel.pt", "text_encoder-hqq-4bit/config.json",
                 "text_encoder-hqq-4bit/tokenizer/tokenizer.json", "vae/config.json",
                 "transformer-gemlite-int2/state_dict.pt"):  # fmt: skip
        assert (for_cuda / path).is_file(), path
    index = json.loads((for_cuda / "model_index.json").read_text())
    assert set(index) == {"_class_name", "_diffusers_version"}
    for folder in (made, for_cuda):
        assert not (folder / "transformer").exists()  # clients take that for an unquantized one
        for path in (standin / "vae").iterdir():
            assert (folder / "vae" / path.name).read_bytes() == path.read_bytes()


def test_the_configs_of_the_text_encoder(made, standin):
    said = json.loads((made / ENCODER / "config.json").read_text())
    source = json.loads((standin / "text_encoder/config.json").read_text())
    how = {"bits": 4, "group_size": 64}
    assert said == source | {"quantization": how, "quantization_config": how}


def test_manifests_list_all_and_where_it_came_from(made, for_cuda, standin):
    for folder in (made, for_cuda):
        manifest = json.loads((folder / "manifest.json").read_text())
        listed = {f["path"]: (f["size"], f["sha256"]) for f in manifest["files"]}
        found = {p: ((folder / p).stat().st_size, h) for p, h in hashes(folder).items()}
        found = {p: f for p, f in found.items() if p not in ("manifest.json", "README.md")}
        assert listed == found
        for part in manifest["source"]["parts"]:
            data = (standin / part["name"]).read_bytes()
            assert part["sha256"] == hashlib.sha256(data).hexdigest()
            assert part["size"] == len(data)
        assert "text_encoder/model.safetensors" in {p["name"] for p in manifest["source"]["parts"]}
    bonsai = json.loads((made.parent / "bonsai/manifest.json").read_text())
    assert bonsai["source"]["parts"] == []


def test_the_plan_knows_the_sizes(standin, made, for_cuda):
    work = plan(str(standin), formats="mlx,gemlite", **MODE)
    for name, folder in (("mlx", made), ("gemlite", for_cuda)):
        mine = {f.path: f for f in work.files if f.format == name}
        found = {p: (folder / p).stat().st_size for p in hashes(folder)}
        assert set(mine) == set(found)
        exact = {p: f.size for p, f in mine.items() if f.exact}
        assert exact == {p: found[p] for p in exact}
    guess = next(f for f in work.files if f.path.endswith("qmodel.pt"))
    assert not guess.exact
    assert abs(guess.size / (for_cuda / guess.path).stat().st_size - 1) < 0.1
    assert work.child_bytes > 1 << 30


def test_qwen3_4b_takes_what_is_published():
    from bonsai_quant.core.schema import StoredTensor, TensorSpec
    from bonsai_quant.packs.deployment.gemlite import expected_size
    from bonsai_quant.packs.deployment.scheme import MLX

    config = {"vocab_size": 151936, "hidden_size": 2560, "intermediate_size": 9728,
              "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8,
              "head_dim": 128, "tie_word_embeddings": True}  # fmt: skip
    stored = tuple(
        StoredTensor(TensorSpec(n, "BF16", s), "file", 0) for n, s in sorted(shapes(config).items())
    )
    encoder = TextEncoder("folder", config, stored, ())
    made = MLX.layout(encoder)
    assert len(made.specs) == 904
    assert abs(made.size - 2_263_022_529) < 50_000  # the header alone is another
    assert abs(expected_size(encoder) / 2_822_340_711 - 1) < 0.001


def test_totals_stand_beside_the_published_ones():
    files = {"transformer-packed-mflux/a": 970_000_000, "text_encoder-mlx-4bit/b": 2_260_000_000,
             "tokenizer/c": 16_000_000, "vae/d": 168_000_000, "manifest.json": 1000}  # fmt: skip
    rows = published.beside_published("binary", "mlx", files.items())
    assert rows[-1] == ("total", 3_414_001_000, 3.42)
    assert ("tokenizer", 16_000_000, None) in rows


def test_transformer_only(standin, tmp_path):
    convert(str(standin), formats="mlx", out=tmp_path / "a", transformer_only=True, **MODE)
    convert(str(standin / "transformer"), formats="mlx", out=tmp_path / "b", **MODE)
    a, b = (hashes(tmp_path / o, manifests=False) for o in "ab")
    assert a == b
    assert {p.split("/")[1] for p in a} == {"layers.csv", "transformer-packed-mflux"}


def test_a_lone_transformer_is_said_to_be_one(tiny, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        convert(str(tiny), formats="mlx", out=tmp_path / "out", **MODE)
    assert "packs hold the transformer only" in caplog.text
    assert not (tmp_path / "out/mlx/vae").exists()


def test_the_flag_of_the_command_line(run, standin, tmp_path):
    done = run("convert", standin, "--mode", "ternary", "-f", "mlx", "-o", tmp_path / "o",
               "--transformer-only")  # fmt: skip
    assert (done.code, done.err) == (0, "")
    assert not (tmp_path / "o/mlx/vae").exists()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("block", [1000, 100_000])
def test_dtypes_shards_and_blocks_do_not_change_a_byte(
    made, source, tmp_path, dtype, block, monkeypatch
):
    from bonsai_quant.packs.deployment import encoder_file

    monkeypatch.setattr(encoder_file, "BLOCK", block)
    path = source / "text_encoder/model.safetensors"
    tensors = {n: w.astype(dtype) for n, w in load_file(path).items()}
    path.unlink()
    where = {}
    for k in range(3):
        part = {n: tensors[n] for n in sorted(tensors)[k::3]}
        save_file(part, path.with_name(f"model-{k}.safetensors"), {"format": "pt"})
        where |= dict.fromkeys(part, f"model-{k}.safetensors")
    index = {"weight_map": where}
    path.with_name("model.safetensors.index.json").write_text(json.dumps(index))
    convert(str(source), formats="mlx", out=tmp_path / "out", **MODE | {"threads": 3})
    ours = tmp_path / "out/mlx" / ENCODER / "model.safetensors"
    if dtype == np.float32:
        assert ours.read_bytes() == (made / ENCODER / "model.safetensors").read_bytes()
    stored = load_file(ours)
    for name, w in tensors.items():
        expected = quantize(to_bf16(w))[0] if w.ndim == 2 else w.astype(ml_dtypes.bfloat16)
        assert np.array_equal(stored[name], expected)


def test_deployments_are_packs_and_not_pipelines(made, for_cuda):
    for folder in (made, for_cuda):
        pipeline = locate(str(folder))
        assert pipeline.pack is not None
        assert pipeline.folder == folder
        assert pipeline.distilled
        assert pipeline.part("text_encoder").name.endswith("-4bit")


def test_without_hqq_the_text_encoder_stays_in_16_bits(standin, tmp_path, without_hqq, caplog):
    convert(str(standin), formats="gemlite", out=tmp_path / "out", **MODE)
    assert "hqq not installed" in caplog.text
    assert install("gemlite") in caplog.text
    gemlite = tmp_path / "out/gemlite"
    assert (gemlite / "tokenizer/tokenizer.json").is_file()
    a, b = (p / "text_encoder/model.safetensors" for p in (gemlite, standin))
    assert a.read_bytes() == b.read_bytes()
    prompts = ("a red circle",)
    x, y = (open_runner(locate(str(p)), "torch").encode(prompts, 20) for p in (gemlite, standin))
    assert np.array_equal(x, y)


@pytest.mark.heavy
def test_hqqs_file_is_the_same_every_time(for_cuda, standin, tmp_path):
    convert(str(standin), formats="gemlite", out=tmp_path / "out", **MODE)
    assert hashes(tmp_path / "out/gemlite") == hashes(for_cuda)


def test_resuming_gives_the_same_bytes(made, standin, tmp_path, monkeypatch):
    from bonsai_quant.packs.deployment import encoder_file

    def fail(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(encoder_file, "write", fail)
        with pytest.raises(KeyboardInterrupt):
            convert(str(standin), formats="bonsai,mlx", out=tmp_path / "out", **MODE)
    assert (tmp_path / ".out.staging/mlx/vae/config.json").exists()
    convert(str(standin), formats="bonsai,mlx", out=tmp_path / "out", resume=True, **MODE)
    assert hashes(tmp_path / "out") == hashes(made.parent)


OPERATIONS = ("create", "mkdir", "pwrite", "fsync", "truncate", "unlink")


def test_a_full_disk_anywhere_leaves_nothing_and_is_resumed(made, standin, tmp_path):
    work = plan(str(standin), formats="bonsai,mlx", **MODE)
    with seam(0, nothing) as counter:
        write_packs(work, tmp_path / "count")
    for n in range(40, counter.count, counter.count // 6):
        out = tmp_path / f"out{n}"
        with seam(n, fail(errno.ENOSPC), OPERATIONS):
            with pytest.raises(EnvironmentFault, match="No space left"):
                write_packs(work, out)
        assert not out.exists()
        write_packs(work, out, resume=True)
        assert hashes(out) == hashes(made.parent)


def test_export_adds_the_parts_of_a_pipeline(made, standin, tmp_path):
    bonsai = made.parent / "bonsai"
    export(bonsai, format="mlx", out=tmp_path / "whole", pipeline=str(standin))
    assert hashes(tmp_path / "whole") == hashes(made)
    export(bonsai, format="mlx", out=tmp_path / "bare")
    assert not (tmp_path / "bare/vae").exists()
    with pytest.raises(UsageError, match="holds the transformer only"):
        export(bonsai, format="unpacked", out=tmp_path / "no", pipeline=str(standin))
    with pytest.raises(BadInput, match="no whole pipeline"):
        export(bonsai, format="mlx", out=tmp_path / "no", pipeline=str(made))


def test_a_head_that_is_the_embedding_again_is_dropped(made, source, tmp_path):
    path = source / "text_encoder/model.safetensors"
    tensors = load_file(path)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    save_file(tensors, path, {"format": "pt"})
    convert(str(source), formats="mlx", out=tmp_path / "out", **MODE)
    ours = tmp_path / "out/mlx" / ENCODER / "model.safetensors"
    assert ours.read_bytes() == (made / ENCODER / "model.safetensors").read_bytes()
