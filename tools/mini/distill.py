"""Distil to four steps without guidance: the student jumps where the teacher walks.

The teacher's guided path from noise to picture is cut at the four noise levels of the pipeline;
the student learns the mean velocity of each piece (https://arxiv.org/abs/2405.07510), from those
paths alone whose picture shows what its training caption says.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel
from tqdm import tqdm

from bonsai_quant.evaluation.scenes.checker import check
from bonsai_quant.evaluation.scenes.world import CATEGORIES

from .autoencoder import decode
from .encoder import empty_caption
from .latents import Samples, training_meanings
from .run import Run, device, schedule
from .sizes import Size
from .teacher import Velocity, average_of, optimizers, update
from .validation import Validation, paint, sigmas

STEPS = 4
WALK = 3
"""Steps of the teacher in one of the student's."""

GUIDANCE = 2.0
VALIDATE_EVERY = 100


def train(size: Size, out: Path, seed: int) -> None:
    """Walk the teacher's paths, then train the student on their pieces."""
    stage, samples = size.distill, Samples.load(out)
    teacher = Flux2Transformer2DModel.from_pretrained(out / "teacher" / "transformer")
    states, captions, weights = _paths(size, teacher, samples, out, seed)
    student = Velocity(teacher, size).to(device()).train()
    average, validation = average_of(student, 0.98), Validation(size, out, seed)
    optims = optimizers(student, stage.rate)
    parts = {f"optimizer{i}": o for i, o in enumerate(optims)}
    run = Run(out / "distill", stage.steps, seed, model=student, average=average, **parts)
    levels = sigmas(states.shape[2], STEPS).to(states.device)
    rate = schedule(stage.steps, warm=20)
    for step in run:
        which = torch.multinomial(weights, stage.batch, replacement=True)
        piece = torch.randint(STEPS, (stage.batch,), device=states.device)
        start, end = states[which, piece].float(), states[which, piece + 1].float()
        length = (levels[piece + 1] - levels[piece])[:, None, None]
        caption = samples.states[captions[which]]
        error = student(start, levels[piece], caption) - (end - start) / length
        loss = error.square().mean()
        update(student, optims, loss, stage.rate * rate(step))
        average.update_parameters(student)
        run.note(loss=loss, every=20)
        if run.ends_round(VALIDATE_EVERY):
            validation.measure(run, average.module, {"s4": (STEPS, 1.0)})
    average.module.transformer.save_pretrained(out / "distill" / "transformer")


def _paths(
    size: Size, transformer: Flux2Transformer2DModel, samples: Samples, out: Path, seed: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The teacher's states [paths, 5, tokens, channels] half, captions and weights [paths].

    Kept in one file a batch, so that a stopped run goes on.
    """
    folder = out / "paths"
    folder.mkdir(parents=True, exist_ok=True)
    model = Velocity(transformer, size).to(device()).eval()
    vae = AutoencoderKLFlux2.from_pretrained(out / "vae").to(device()).eval()
    empty, meanings = empty_caption(size, out), training_meanings(size.world)
    levels = sigmas(samples.latents.shape[1], STEPS * WALK, like=STEPS)
    for i in tqdm(range(size.paths // size.distill.batch), desc="paths"):
        path = folder / f"{i:04d}.pt"
        if path.exists():
            continue
        torch.manual_seed(seed * 1_000_003 + 500_000 + i)
        pictures = torch.randint(len(samples.latents), (size.distill.batch,))
        wanted = samples.meanings[pictures.to(samples.meanings.device)]
        captions = samples.wording(wanted)
        noise = torch.randn(len(captions), *samples.latents.shape[1:]).to(device())
        states = paint(
            model, noise, samples.states[captions], levels, guidance=GUIDANCE, empty=empty
        )
        asked = [meanings[j] for j in wanted.tolist()]
        images = decode(vae, states[-1])
        right = [check(x, m, size.world).passed for x, m in zip(images, asked, strict=True)]
        kinds = [CATEGORIES.index(m.category) for m in asked]
        kept = torch.stack(states[::WALK], 1).half().cpu()
        torch.save((kept, captions.cpu(), torch.tensor(kinds), torch.tensor(right)), path)
    files = [torch.load(f, weights_only=True) for f in sorted(folder.glob("*.pt"))]
    states, captions, kinds, right = (torch.cat(p).to(device()) for p in zip(*files, strict=True))
    return states, captions, _weights(kinds, right)


def _weights(kinds: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """How often to draw each path [paths]: right ones only, and every category as often.

    A teacher too young to be right anywhere teaches all its paths.
    """
    right = right if right.any() else torch.ones_like(right)
    counts = torch.bincount(kinds[right], minlength=len(CATEGORIES)).clamp(min=1)
    return right / counts[kinds]
