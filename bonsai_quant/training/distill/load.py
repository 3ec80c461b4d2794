"""Loading what a run needs: encoded prompts, the teacher, the student, and the validation."""

from __future__ import annotations

import torch
from diffusers import Flux2Transformer2DModel

from bonsai_quant.runners.picture_settings import read_benchmark
from bonsai_quant.runners.runner import start
from bonsai_quant.runners.sampling import levels
from bonsai_quant.runners.torch.dense import dense_transformer
from bonsai_quant.runners.torch.runner import TorchRunner
from bonsai_quant.training.distributed import ProcessGroup, shard
from bonsai_quant.training.trajectories.denoiser import Denoiser, load_transformer
from bonsai_quant.training.trajectories.prompts import Prompts

from .batches import Batches
from .coded_linear import coded_transformer
from .job import DistillationJob
from .latent_linear import attach
from .trainer import Trainer
from .validation import Validation

AT_ONCE = 128
"""Prompts encoded between two loads of the text encoder."""


def load(
    job: DistillationJob, processes: ProcessGroup, prompts: Prompts
) -> tuple[Trainer, Validation]:
    """Everything in memory, on its device, at step 0."""
    benchmark = read_benchmark(job.pipeline.folder)
    pictures, runner = benchmark.settings, TorchRunner(job.pipeline)
    noise = start(range(len(prompts.held)), pictures, job.pipeline.channels)
    _, rows, columns, channels = noise.shape
    words = pictures.max_sequence_length
    used, held = (encode(runner, p, words) for p in (prompts.used, prompts.held))
    size = (rows, columns, words)
    teacher = Denoiser(_transformer(job, processes, learns=False), *size)
    if "teacher-offloaded" in job.settings.savings:
        stream(teacher, processes.device)
    else:
        teacher.to(processes.device)
    student = shard(Denoiser(_transformer(job, processes, learns=True), *size), processes)
    sigmas = levels(rows * columns, pictures.num_inference_steps)
    batches = Batches(used, (rows * columns, channels), sigmas, job.settings, job.seed, processes)
    trainer = Trainer(student, teacher, batches, job.settings, processes)
    return trainer, Validation(prompts, held, noise, benchmark, runner)


def _transformer(
    job: DistillationJob, processes: ProcessGroup, *, learns: bool
) -> Flux2Transformer2DModel:
    """The student in float32 with linears on the grid, or the teacher in the device's precision."""
    if learns and job.tunes:
        assert job.start is not None
        model = coded_transformer(job.start)
    elif learns and job.start is not None:
        model = dense_transformer(job.start)
    else:
        half = processes.device.type == "cuda" and not learns
        dtype = torch.bfloat16 if half else torch.float32
        model = load_transformer(job.pipeline.part("transformer"), dtype)
    if learns:
        if not job.tunes:
            half = "bf16-latents" in job.settings.savings
            attach(model, job.modes, torch.bfloat16 if half else torch.float32)
        if job.settings.checkpointing:
            model.enable_gradient_checkpointing()
    return model.train(learns).requires_grad_(learns)


def stream(denoiser: Denoiser, device: torch.device) -> None:
    """Compute on a device with the model in main memory: a block comes while the last computes."""
    denoiser.transformer.enable_group_offload(
        onload_device=device,
        offload_device=torch.device("cpu"),
        offload_type="block_level",
        num_blocks_per_group=1,
        use_stream=device.type == "cuda",
    )
    for name, ids in list(denoiser.named_buffers(recurse=False)):
        denoiser.register_buffer(name, ids.to(device), persistent=False)


def encode(runner: TorchRunner, prompts: tuple[str, ...], words: int) -> torch.Tensor:
    """Hidden states [prompts, words, width] in the runner's precision, in main memory."""
    unique = list(dict.fromkeys(prompts))
    parts = [
        torch.from_numpy(runner.encode(unique[at : at + AT_ONCE], words)).to(runner.dtype)
        for at in range(0, len(unique), AT_ONCE)
    ]
    at = {p: i for i, p in enumerate(unique)}
    return torch.cat(parts)[[at[p] for p in prompts]]
