"""Packs that are whole deployments: what they hold, that others read it, what is refused."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bonsai_quant import convert, export, plan
from bonsai_quant.conversion.convert import write_packs
from bonsai_quant.core import requirements as needs
from bonsai_quant.core.errors import BadInput, EnvironmentFault, Unsupported, UsageError
from bonsai_quant.packs import whitepaper as published
from bonsai_quant.packs.deployment import hqq_process
from bonsai_quant.packs.pipeline import locate
from bonsai_quant.quantization.affine4 import decode, not_finite, quantize
from bonsai_quant.quantization.bf16 import to_bf16
from bonsai_quant.runners import open_runner
from bonsai_quant.sources.components import TextEncoder, find_components
from bonsai_quant.sources.components.text_encoder import shapes
from tests.conversion.test_convert import hashes
from tests.faults.harness import fail, nothing, seam

ENCODER = "text_encoder-mlx-4bit"
MODE = {"mode": "ternary", "threads": 2}


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
def source(standin, tmp_path):
    """A copy of the stand-in, to break."""
    return shutil.copytree(standin, tmp_path / "source")


@pytest.fixture
def without_hqq(monkeypatch):
    real = needs.installed
    monkeypatch.setattr(needs, "installed", lambda name: None if name == "hqq" else real(name))


def weights(rng, kind, shape=(48, 640)):
    """Groups of many kinds, as float32."""
    w = rng.standard_normal(shape).astype(np.float32)
    return {
        "random": 0.02 * w,
        "constant": np.full(shape, 0.3, np.float32),
        "below zero": np.full(shape, -0.3, np.float32),
        "zero": np.zeros(shape, np.float32),
        "narrow": 1 + 1e-3 * w,
        "tiny": 1e-9 * w,
        "subnormal": 1e-38 * w,
        "outliers": w * np.exp(4 * rng.standard_normal(shape)).astype(np.float32),
        "large": 1e37 * w,
        "positive": np.abs(w),
        "integers": rng.integers(-8, 8, shape).astype(np.float32),
        "sparse": np.where(rng.random(shape) < 0.02, w, 0),
        "any bits": any_bits(rng, shape),
    }[kind]


KINDS = ("random", "constant", "below zero", "zero", "narrow", "tiny", "subnormal", "outliers",
         "large", "positive", "integers", "sparse", "any bits")  # fmt: skip


def any_bits(rng, shape):
    bits = rng.integers(0, 1 << 16, shape).astype(np.uint16)
    values = bits.view(ml_dtypes.bfloat16).astype(np.float32)
    return np.where(np.isfinite(values), values, 0).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_four_bits_are_mlxs_own(kind):
    mx = pytest.importorskip("mlx.core")
    for seed in range(3):
        w = weights(np.random.default_rng(seed), kind)
        with mx.stream(mx.cpu):
            theirs = mx.quantize(mx.array(w).astype(mx.bfloat16), group_size=64, bits=4)
            mx.eval(*theirs)
        words, scales, biases = quantize(to_bf16(w))
        assert np.array_equal(words, np.array(theirs[0]))
        assert np.array_equal(scales, np.array(theirs[1].view(mx.uint16)))
        assert np.array_equal(biases, np.array(theirs[2].view(mx.uint16)))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_rounding_to_bf16_is_that_of_ml_dtypes(dtype):
    rng = np.random.default_rng(0)
    w = rng.standard_normal(100_000) * np.exp(8 * rng.standard_normal(100_000))
    w = w[np.abs(w) < 6e4].astype(dtype)
    assert np.array_equal(to_bf16(w), w.astype(ml_dtypes.bfloat16).view(np.uint16))


def test_decoding_is_mlxs_in_float32():
    mx = pytest.importorskip("mlx.core")
    words, *parts = quantize(to_bf16(weights(np.random.default_rng(0), "outliers")))
    wide = [(p.astype(np.uint32) << 16).view(np.float32) for p in parts]
    with mx.stream(mx.cpu):
        theirs = mx.dequantize(mx.array(words), *map(mx.array, wide), group_size=64, bits=4)
        assert np.array_equal(decode(words, *wide), np.array(theirs))


def test_the_first_value_that_is_not_finite():
    w = np.ones((4, 64), np.float32)
    assert not_finite(to_bf16(w)) is None
    for bad in (np.nan, np.inf, -np.inf):
        w[2, 7] = bad
        assert not_finite(to_bf16(w)) == 2 * 64 + 7


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
    from bonsai_quant.packs.deployment.affine import layout
    from bonsai_quant.packs.deployment.gemlite import expected_size

    config = {"vocab_size": 151936, "hidden_size": 2560, "intermediate_size": 9728,
              "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8,
              "head_dim": 128, "tie_word_embeddings": True}  # fmt: skip
    stored = tuple(
        StoredTensor(TensorSpec(n, "BF16", s), "file", 0) for n, s in sorted(shapes(config).items())
    )
    encoder = TextEncoder("folder", config, stored, ())
    made = layout(encoder)
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


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("block", [1000, 100_000])
def test_dtypes_shards_and_blocks_do_not_change_a_byte(
    made, source, tmp_path, dtype, block, monkeypatch
):
    from bonsai_quant.packs.deployment import affine

    monkeypatch.setattr(affine, "BLOCK", block)
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
    assert "pip install 'bonsai-quant[gemlite]'" in caplog.text
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


def test_a_child_that_fails_is_explained(standin, tmp_path, monkeypatch):
    pytest.importorskip("hqq")
    monkeypatch.setattr(hqq_process, "CHILD", "bonsai_quant.no_such_module")
    with pytest.raises(EnvironmentFault, match="hqq ended with code 1: .*no_such_module"):
        convert(str(standin), formats="gemlite", out=tmp_path / "out", **MODE)
    assert not (tmp_path / "out").exists()


def test_resuming_gives_the_same_bytes(made, standin, tmp_path, monkeypatch):
    from bonsai_quant.packs.deployment import affine

    def fail(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(affine, "write", fail)
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


def test_a_part_that_changes_during_the_run(source, tmp_path, monkeypatch):
    work = plan(str(source), formats="mlx", **MODE)
    path = source / "tokenizer/tokenizer.json"
    path.write_text(path.read_text() + " ")
    with pytest.raises(BadInput, match="changed during the run"):
        write_packs(work, tmp_path / "out")


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


def test_nothing_else_is_a_whole_pipeline(source, tmp_path):
    assert find_components(source) is not None
    assert find_components(source / "transformer") is None
    change("model_index.json", _class_name="FluxPipeline")(source)
    assert find_components(source) is None
