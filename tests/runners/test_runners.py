"""Both runners paint what stock diffusers paints: from every format, in both modes, at any size."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from torch.nn import functional

from bonsai_quant import convert
from bonsai_quant.core.errors import BonsaiError, Unsupported, UsageError, VerificationFailed
from bonsai_quant.packs.pipeline import locate
from bonsai_quant.packs.read import open_pack
from bonsai_quant.runners import noise, open_runner
from bonsai_quant.runners.runner import paint, start
from bonsai_quant.runners.sampling import check_scheduler, levels
from bonsai_quant.runners.torch import packed_linear as packed
from bonsai_quant.runners.torch import vae_strips as strips
from bonsai_quant.runners.torch.dense import open_pipeline, paint_dense
from bonsai_quant.runners.torch.transformer import packed_transformer
from bonsai_quant.runners.vae_tiles import in_tiles
from bonsai_quant.verification.levels.images import psnr
from tests.support.forge import flip, orphan

PROMPTS = ("a red circle", "two blue crosses left of a small square on a dark background")
SEEDS = (1, 2)
FORMATS = ("bonsai", "mlx", "gemlite", "unpacked")
PACKAGE = {"torch": "torch", "mlx": "mlx_lm"}
BACKENDS = tuple(PACKAGE)


pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("no_network")]


@pytest.fixture(scope="module", params=["ternary", "binary"])
def made(request, standin, tmp_path_factory):
    out = tmp_path_factory.mktemp(request.param) / "out"
    convert(str(standin), mode=request.param, formats=FORMATS, out=out, transformer_only=True)
    return out


def runner_of(made, standin, backend, name="bonsai"):
    return open_runner(locate(str(made / name), pipeline=str(standin)), backend)


@pytest.mark.parametrize("seed", [0, 7, 2**31 + 5, 2**40 + 3, 2**63 - 1])
@pytest.mark.parametrize("n", [16, 17, 31, 64, 1000, 4096])
def test_the_noise_of_a_seed_is_torchs(seed, n):
    theirs = torch.randn(n, generator=torch.Generator().manual_seed(seed)).numpy()
    assert np.abs(noise.normal(seed, n) - theirs).max() < 4e-6


@pytest.mark.parametrize("tokens", [16, 24, 1024, 4300, 4301, 16384])
@pytest.mark.parametrize("steps", [1, 4, 12, 50])
def test_noise_levels_are_the_schedulers(standin, tokens, steps):
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(standin / "scheduler")
    mu = compute_empirical_mu(tokens, steps)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
    assert np.abs(scheduler.sigmas.numpy() - np.array(levels(tokens, steps))).max() < 1e-6


@pytest.mark.parametrize("change", [
    {"use_karras_sigmas": True}, {"use_dynamic_shifting": False}, {"time_shift_type": "linear"},
    {"shift_terminal": 0.1},
], ids=str)  # fmt: skip
def test_a_scheduler_of_other_levels_is_refused(standin, tmp_path, change):
    folder = tmp_path / "p"
    shutil.copytree(standin, folder)
    path = folder / "scheduler/scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(Unsupported, match=next(iter(change))):
        check_scheduler(folder)


def test_the_pipelines_own_picture_is_stock_diffusers(standin, settings):
    pipe = Flux2KleinPipeline.from_pretrained(standin, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    wide = replace(settings, width=96)
    made = paint(open_runner(locate(str(standin)), "torch"), PROMPTS, SEEDS, wide)
    for prompt, seed, mine in zip(PROMPTS, SEEDS, made.pictures, strict=True):
        (image,) = pipe(
            prompt=prompt, height=64, width=96, num_inference_steps=4, guidance_scale=1.0,
            max_sequence_length=20, generator=torch.Generator().manual_seed(seed),
        ).images  # fmt: skip
        assert np.abs(mine.astype(int) - np.asarray(image)).max() <= 1


def test_guidance_is_that_of_stock_diffusers(standin, tmp_path, settings):
    folder = tmp_path / "p"
    shutil.copytree(standin, folder)
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"is_distilled": False}))
    steered = replace(settings, guidance_scale=3.0)
    mine = paint(open_runner(locate(str(folder)), "torch"), PROMPTS, SEEDS, steered).pictures
    theirs = paint_dense(open_pipeline(folder), PROMPTS, SEEDS, steered)
    assert np.abs(mine.astype(int) - theirs).max() <= 1
    plain = paint_dense(open_pipeline(folder), PROMPTS, SEEDS, settings)
    assert np.abs(plain.astype(int) - theirs).max() > 5


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_format_paints_as_its_dense_weights_do(made, standin, settings, backend):
    pytest.importorskip(PACKAGE[backend])
    pipe = open_pipeline(made / "bonsai", pipeline=str(standin))
    theirs = paint_dense(pipe, PROMPTS, SEEDS, settings)
    for name in FORMATS:
        painted = paint(runner_of(made, standin, backend, name), PROMPTS, SEEDS, settings)
        assert min(map(psnr, painted.pictures, theirs)) > 50


def test_the_runners_agree_part_by_part(made, standin, settings):
    pytest.importorskip("mlx_lm")
    a, b = (runner_of(made, standin, backend) for backend in BACKENDS)
    captions = a.encode(PROMPTS, 20)
    assert np.abs(captions - b.encode(PROMPTS, 20)).max() < 1e-4 * np.abs(captions).max()
    z = start(SEEDS, settings, a.pipeline.channels)
    with a.transformer() as first, b.transformer() as second:
        for sigma in (1.0, 0.7, 0.05):
            v = first(z, sigma, captions)
            assert np.linalg.norm(second(z, sigma, captions) - v) < 1e-5 * np.linalg.norm(v)
    with a.decoder() as first, b.decoder() as second:
        assert np.abs(first(z) - second(z)).max() < 1e-3


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_picture_depends_on_its_prompt_and_seed_alone(made, standin, settings, backend):
    pytest.importorskip(PACKAGE[backend])
    runner = runner_of(made, standin, backend)
    both = paint(runner, PROMPTS, SEEDS, settings).pictures
    alone = paint(runner, PROMPTS[1:], SEEDS[1:], settings).pictures
    assert psnr(both[1], alone[0]) > 60
    assert psnr(both[0], both[1]) < 40


@pytest.mark.parametrize("bits", [1, 2])
@pytest.mark.parametrize("shape", [(1, 128), (33, 256), (100, 384)], ids=str)
def test_a_packed_linear_is_its_dense_weight_some_rows_at_a_time(monkeypatch, bits, shape):
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 3 if bits == 2 else 2, shape, np.uint8)
    scales = rng.choice([0.5, 0.25, 0.125], (shape[0], shape[1] // 128)).astype(np.float16)
    from bonsai_quant.quantization import packing as twiddling

    layer = packed.PackedLinear(
        torch.from_numpy(twiddling.pack(codes, bits)), torch.from_numpy(scales), bits
    )
    t = codes.astype(np.float32) - 1 if bits == 2 else 2 * codes.astype(np.float32) - 1
    dense = torch.from_numpy(t * np.repeat(scales.astype(np.float32), 128, 1))
    assert torch.equal(layer.rows(0, shape[0]), dense)
    assert torch.equal(packed.decode_on_device(layer.codes, layer.scales.float(), bits), dense)
    x = torch.randn(2, 3, shape[1])
    for at_once in (1, 1000, 1 << 22):
        monkeypatch.setattr(packed, "AT_ONCE", at_once)
        assert torch.allclose(layer(x), functional.linear(x, dense), atol=1e-5)


def test_the_packed_transformer_holds_no_dense_weight(made):
    model = packed_transformer(open_pack(made / "bonsai"))
    held = sum(b.numel() * b.element_size() for b in model.buffers())
    info = open_pack(made / "bonsai").info
    expected = sum(t.size * info.bits // 8 + 2 * t.size // 128 for t in info.packed)
    expected += sum(2 * t.size for t in info.kept if len(t.shape) == 2)
    assert held == expected
    assert all(p.ndim == 1 for p in model.parameters())


@pytest.mark.parametrize("size", [(8, 8), (8, 20), (13, 7), (30, 30)], ids=str)
def test_tiles_of_a_local_decoder_are_seamless(size):
    def decode(z):
        seen.append(z.shape[1:3])
        return np.kron(z[..., :3], np.ones((1, 16, 16, 1), np.float32))

    seen: list[tuple[int, int]] = []
    z = np.random.default_rng(0).normal(size=(2, *size, 5)).astype(np.float32)
    whole = decode(z)
    seen.clear()
    assert np.allclose(in_tiles(decode, z, tile=8, overlap=3), whole, atol=1e-5)
    assert all(max(shape) <= 8 for shape in seen)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_loaded_is_what_was_hashed(made, standin, tmp_path, settings, backend):
    pytest.importorskip(PACKAGE[backend])
    shutil.copytree(made / "bonsai", tmp_path / "pack")
    pipeline = locate(str(tmp_path / "pack"), pipeline=str(standin))
    flip(tmp_path / "pack", "transformer_blocks.0.attn.to_q.scales", 0, 0x08)
    runner = open_runner(pipeline, backend)
    with pytest.raises(VerificationFailed, match="sha256"), runner.transformer():
        pass
    told = open_runner(replace(pipeline, unverified=True), backend)
    with told.transformer() as velocity:
        assert velocity is not None


def test_a_file_swapped_while_it_is_held_changes_nothing(made, tmp_path):
    from bonsai_quant.packs.integrity import held

    shutil.copytree(made / "bonsai", tmp_path / "pack")
    pack = open_pack(tmp_path / "pack")
    tensor = pack.info.packed[0]
    before = pack.layer(tensor).codes.copy()
    with held(pack) as mine:
        bad = tmp_path / "bad"
        bad.write_bytes(bytes(pack.path.stat().st_size))
        os.replace(bad, pack.path)
        assert np.array_equal(mine.layer(tensor).codes, before)
    with pytest.raises(VerificationFailed), held(pack):
        pass


def test_mlx_runs_packs_only_and_unknown_backends_are_named(standin):
    pytest.importorskip("mlx_lm")
    with pytest.raises(Unsupported, match="--backend torch"):
        open_runner(locate(str(standin)), "mlx")
    with pytest.raises(UsageError, match="auto or torch or gemlite or mlx"):
        open_runner(locate(str(standin)), "tinygrad")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("part", ["text_encoder/config.json", "tokenizer/tokenizer_config.json"])
def test_code_that_a_config_names_is_never_run(made, standin, tmp_path, backend, part):
    """auto_map is transformers' way to name code beside the weights, model_file mlx-lm's."""
    pytest.importorskip(PACKAGE[backend])
    folder = tmp_path / "pipeline"
    shutil.copytree(standin, folder)
    canary = tmp_path / "ran"
    for at in (folder / part).parent, folder:
        (at / "evil.py").write_text(f"open({str(canary)!r}, 'w')\nclass Evil: pass\nModel = Evil\n")
    names = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoTokenizer")
    named = {"auto_map": {n: "evil.Evil" for n in names}, "model_file": "evil.py"}
    path = folder / part
    path.write_text(json.dumps(json.loads(path.read_text()) | named))
    with contextlib.suppress(BonsaiError):
        runner_of(made, folder, backend).encode(PROMPTS[:1], 20)
    assert not canary.exists()


@pytest.fixture
def deployment(made, standin, tmp_path):
    """An MLX repo as others publish it: no manifest of ours, a 4-bit text encoder by mlx-lm."""
    pytest.importorskip("mlx_lm")
    from mlx_lm.models import qwen3
    from mlx_lm.utils import load_model, quantize_model, save_config, save_model

    folder = tmp_path / "repo"
    shutil.copytree(made / "mlx", folder)
    orphan(folder)
    (folder / "layers.csv").unlink()
    for part in ("tokenizer", "vae"):
        shutil.copytree(standin / part, folder / part)
    model, config = load_model(
        standin / "text_encoder", get_model_classes=lambda config: (qwen3.Model, qwen3.ModelArgs)
    )
    small, config = quantize_model(model, config, 64, 4)
    save_model(folder / "text_encoder-mlx-4bit", small)
    save_config(config, folder / "text_encoder-mlx-4bit/config.json")
    return folder


def test_a_complete_deployment_of_others_runs_by_itself(deployment, made, standin, settings):
    pipeline = locate(str(deployment))
    assert (pipeline.folder, pipeline.distilled) == (deployment, True)
    mine = open_runner(pipeline, "mlx").encode(PROMPTS, 20)
    theirs = runner_of(made, standin, "torch").encode(PROMPTS, 20)
    nearness = (mine * theirs).sum() / np.linalg.norm(mine) / np.linalg.norm(theirs)
    assert 0.9 < nearness < 0.9999  # four bits, but of the same encoder
    assert paint(open_runner(pipeline, "mlx"), PROMPTS, SEEDS, settings).pictures.std() > 5
    torchs = open_runner(pipeline, "torch").encode(PROMPTS, 20)
    assert np.abs(torchs - mine).max() < 1e-5 * np.abs(mine).max()
    painted = paint_dense(open_pipeline(deployment), PROMPTS, SEEDS, settings)
    again = paint(open_runner(pipeline, "mlx"), PROMPTS, SEEDS, settings).pictures
    assert min(map(psnr, again, painted)) > 50
    assert locate(str(deployment), pipeline=str(standin)).folder == standin


@pytest.mark.parametrize("pixels", [1, 700, 1 << 20])
def test_a_decoder_in_strips_is_the_same_decoder(standin, monkeypatch, pixels):
    from diffusers import AutoencoderKLFlux2

    monkeypatch.setattr(strips, "PIXELS", pixels)
    vae = AutoencoderKLFlux2.from_pretrained(standin / "vae", torch_dtype=torch.float32)
    z = torch.randn(2, vae.config.latent_channels, 6, 9, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        whole = vae.decode(z).sample
        strips.in_strips(vae.decoder)
        cut = vae.decode(z).sample
    replaced = [type(m).__name__ for m in vae.decoder.modules()]
    assert "ResnetBlock2D" not in replaced
    assert "Upsample2D" not in replaced
    assert float((whole - cut).abs().max()) < 1e-4 * float(whole.abs().max())
