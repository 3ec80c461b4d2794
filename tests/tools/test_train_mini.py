"""The training tools: a stopped run goes on as if nothing had been, and the parts fit together."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from tools.mini import (  # noqa: E402
    assemble,
    autoencoder,
    decoder,
    distill,
    encoder,
    latents,
    teacher,
)
from tools.mini.muon import orthogonal  # noqa: E402
from tools.mini.sizes import SIZES, Stage  # noqa: E402

pytestmark = pytest.mark.heavy

TINY = replace(
    SIZES["small"], channels=(8, 8, 16, 16), norm_groups=2, latents=4, width=16, heads=1, double=1,
    single=1, scenes=50, paths=4, dev_captions=1, autoencoder=Stage(2, 2, 1e-3),
    decoder=Stage(2, 2, 1e-3), encoder=Stage(2, 4, 1e-3),
    teacher=Stage(4, 4, 1e-3), distill=Stage(2, 4, 1e-4),
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two steps of everything up to the teacher."""
    out = tmp_path_factory.mktemp("mini")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latents, "CHUNK", 50)
        for part in (autoencoder, decoder, encoder, latents, teacher):
            part.train(TINY, out, 0)
    return out


def test_parts_make_a_pipeline_that_diffusers_runs(trained):
    from diffusers import Flux2KleinPipeline

    distill.train(TINY, trained, 0)
    assemble.train(TINY, trained, 0)
    folder = trained / "pipeline"
    settings = json.loads((folder / "benchmark.json").read_text())
    settings.pop("world")
    pipe = Flux2KleinPipeline.from_pretrained(folder, local_files_only=True)
    image = pipe(prompt="a red circle left of a blue square", output_type="np", **settings).images[
        0
    ]
    assert image.shape == (64, 64, 3)
    assert pipe.tokenizer.unk_token_id not in pipe.tokenizer("A red circle.").input_ids


def test_a_stopped_run_goes_on_with_the_same_numbers(trained, tmp_path):
    for name in ("vae", "text_encoder", "tokenizer", "latents"):
        (tmp_path / name).symlink_to(trained / name)
    whole = torch.load(trained / "teacher" / "state.pt", weights_only=True)

    class Stopped(Exception):
        pass

    real, steps = teacher.update, []

    def stopping(*args):
        steps.append(1)
        if len(steps) == 3:
            raise Stopped
        real(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teacher, "update", stopping)
        patch.setattr("tools.mini.run.SAVE_EVERY", 0.0)
        with pytest.raises(Stopped):
            teacher.train(TINY, tmp_path, 0)
    teacher.train(TINY, tmp_path, 0)
    again = torch.load(tmp_path / "teacher" / "state.pt", weights_only=True)
    assert again["step"] == whole["step"] == 4
    for name, value in whole["model"].items():
        assert torch.equal(value, again["model"][name]), name


def test_no_training_caption_is_held_out():
    from bonsai_quant.evaluation.scenes.grammar import split_of

    said = latents.training_meanings(TINY.world)
    assert {split_of(m) for m in said} == {"train"}


def test_latents_and_back_are_inverse_orders(trained):
    from diffusers import AutoencoderKLFlux2, Flux2KleinPipeline

    vae = AutoencoderKLFlux2.from_pretrained(trained / "vae").eval()
    images = autoencoder.pictures(TINY.world, 2, (5,))
    ours = autoencoder.raw_latents(vae, images)
    with torch.no_grad():
        z = vae.encode(images).latent_dist.mode()
    theirs = Flux2KleinPipeline._pack_latents(Flux2KleinPipeline._patchify_latents(z))
    assert torch.equal(ours, theirs)
    with torch.no_grad():
        direct = vae.decode(z).sample.add(1).mul(127.5).clamp(0, 255).permute(0, 2, 3, 1).numpy()
    painted = autoencoder.decode(vae, autoencoder.normalised(vae, ours))
    assert np.abs(painted - direct).max() < 1.01


@pytest.mark.parametrize("shape", [(8, 8), (24, 8), (8, 40)], ids=str)
def test_muon_makes_every_direction_count_alike(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
    assert values.min() > 0.3
    assert values.max() < 1.3
