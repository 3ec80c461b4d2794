"""A made slice of Klein, one double and two single blocks at its widths, ready to be worked on.

Noise and captions are random, so that neither text encoder nor prompts are needed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from bonsai_quant import convert
from bonsai_quant.conversion.plan import Plan, plan
from bonsai_quant.packs.pipeline import Pipeline
from bonsai_quant.packs.provenance_record import RecipeRecord
from bonsai_quant.packs.read import open_pack
from bonsai_quant.runners.noise import draw
from bonsai_quant.runners.sampling import levels
from bonsai_quant.training.calibrate.job import CalibrationJob
from bonsai_quant.training.calibrate.prepared import Prepared
from bonsai_quant.training.distill.batches import Batches
from bonsai_quant.training.distill.coded_linear import coded_transformer
from bonsai_quant.training.distill.job import DistillationJob
from bonsai_quant.training.distill.latent_linear import attach
from bonsai_quant.training.distill.trainer import Trainer
from bonsai_quant.training.distributed import ProcessGroup
from bonsai_quant.training.settings import DistillationSettings, TuningSettings
from bonsai_quant.training.trajectories.denoiser import Denoiser, load_transformer
from bonsai_quant.training.trajectories.layered import LayeredModel
from tools.make_checkpoint import make

STEPS = 4


@dataclass(frozen=True, slots=True)
class Slice:
    """folder: of the pipeline.  side: of pictures, in pixels.  words: of a caption."""

    folder: Path
    mode: str
    side: int
    words: int
    device: torch.device

    @property
    def work(self) -> Plan:
        """What would be packed."""
        return plan(str(self.folder), mode=self.mode, formats="unpacked", transformer_only=True)

    @property
    def rows(self) -> int:
        """Tokens of a picture's side."""
        return self.side // 16

    @property
    def processes(self) -> ProcessGroup:
        """This one alone."""
        return ProcessGroup(0, 1, self.device)

    def captions(self, n: int) -> torch.Tensor:
        """[n, words, width]."""
        width = int(self.work.info.config["joint_attention_dim"])
        random = torch.Generator().manual_seed(0)
        return torch.randn(n, self.words, width, generator=random)


def made(
    folder: Path, device: torch.device, *, size: str = "wide", mode: str = "ternary",
    side: int = 256, words: int = 512,
) -> Slice:  # fmt: skip
    """Make the checkpoint. size: of tools/make_checkpoint."""
    make(folder, size)
    pictures = {"height": side, "width": side, "max_sequence_length": words}
    (folder / "benchmark.json").write_text(json.dumps(pictures))
    return Slice(folder, mode, side, words, device)


def calibration(piece: Slice, prompts: int) -> tuple[CalibrationJob, Prepared]:
    """A calibration that is ready to paint."""
    work, rows = piece.work, piece.rows
    pipeline = Pipeline("slice", piece.folder, None)
    job = CalibrationJob(pipeline, work, "gptq", None, prompts, 1, 0, piece.folder)
    channels = int(work.info.config["in_channels"])
    noise = np.stack([draw(i, rows, rows, channels) for i in range(prompts)])
    model = LayeredModel(
        work.tensors, work.info.config, job.family.blocks, (rows, rows, piece.words), piece.device
    )
    return job, Prepared(
        model, torch.from_numpy(noise).reshape(prompts, rows * rows, channels),
        piece.captions(prompts), list(levels(rows * rows, STEPS)), 1, piece.processes,
    )  # fmt: skip


def training(
    piece: Slice, settings: DistillationSettings, prompts: int = 8
) -> tuple[Trainer, DistillationJob]:
    """A tuning, or a distillation, with everything in memory. It begins as the nearest codes."""
    work, rows = piece.work, piece.rows
    out = piece.folder.with_name("pack")
    if not out.exists():
        convert(str(piece.folder), mode=piece.mode, formats="bonsai", out=out,
                transformer_only=True)  # fmt: skip
    pack = open_pack(out / "bonsai")
    job = DistillationJob(
        Pipeline("slice", piece.folder, None), work, settings, None, 0, piece.folder,
        RecipeRecord(name="", sha256=""), pack,
    )  # fmt: skip
    dtype = torch.bfloat16 if piece.device.type == "cuda" else torch.float32
    place = (rows, rows, piece.words)
    teacher = Denoiser(load_transformer(piece.folder / "transformer", dtype), *place)
    student = Denoiser(_student(piece, job), *place).to(piece.device)
    shape = (rows * rows, int(work.info.config["in_channels"]))
    batches = Batches(
        piece.captions(prompts), shape, list(levels(rows * rows, STEPS)), settings, 0,
        piece.processes,
    )  # fmt: skip
    teacher = teacher.to(piece.device).eval().requires_grad_(False)
    learning = student.train().requires_grad_(True)
    return Trainer(learning, teacher, batches, settings, piece.processes), job


def _student(piece: Slice, job: DistillationJob) -> nn.Module:
    if isinstance(job.settings, TuningSettings):
        assert job.start is not None
        model = coded_transformer(job.start)
    else:
        model = load_transformer(piece.folder / "transformer", torch.float32)
        attach(model, job.modes)
    if job.settings.checkpointing:
        model.enable_gradient_checkpointing()
    return model
