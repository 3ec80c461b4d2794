"""One run: load, train, look, save, and write the result; in every process of it."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from time import monotonic
from typing import Any

import numpy as np
import torch

from bonsai_quant.core.memory import available
from bonsai_quant.core.schema import Progress, TensorSpec
from bonsai_quant.core.version import __version__
from bonsai_quant.packs.manifest import NAME
from bonsai_quant.storage import fs
from bonsai_quant.storage.staging import Staging, kept_for_resume
from bonsai_quant.training.trajectories.prompts import choose_prompts
from bonsai_quant.training.write_pipeline import write_pipeline

from .distributed import ProcessGroup
from .job import DistillationJob
from .latent_linear import latents
from .load import load
from .memory_need import check_room, needed
from .run_files import CURVES, RunFiles
from .trainer import Trainer
from .validation import Validation

RECORD = "distillation.json"

log = logging.getLogger(__name__)


def run(
    work: DistillationJob, ranks: ProcessGroup, *, overwrite: bool, resume: bool, save_every: float,
    max_memory: int | None, progress: Progress,
) -> dict[str, Any] | None:  # fmt: skip
    """Train, write OUT; -> its record, in the first process."""
    prompts = choose_prompts(work.pipeline, work.prompts, work.settings.prompts)
    _tell_room(work, ranks, max_memory)
    purpose = {
        "source": {f.name: fs.sha256_file(f.path)[1] for f in work.plan.source.files},
        "mode": work.plan.info.mode,
        "layers": work.modes,
        "settings": work.settings.model_dump(mode="json", by_alias=True),
        "seed": work.seed,
        "prompts": {"number": len(prompts.used), "sha256": prompts.sha256},
        "start": None if work.start is None else fs.sha256_file(work.start.folder / NAME)[1],
        "version": __version__,
    }
    with ExitStack() as stack:
        staging = Staging(work.out, overwrite=overwrite, resume=resume)
        book = RunFiles(staging, ranks)
        if ranks.first:
            stack.enter_context(staging)
            stack.enter_context(kept_for_resume(staging))
            book.bind(purpose, resume=resume)
        ranks.wait()
        trainer, exam = load(work, ranks, prompts)
        if resume:
            book.restore(trainer)
        train(trainer, exam, book, save_every, progress)
        return _write(work, trainer, book, purpose)


def train(
    trainer: Trainer, exam: Validation, book: RunFiles, save_every: float, progress: Progress
) -> None:
    """Every update that is left, with looks at held-out prompts and checkpoints between."""
    settings, saved = trainer.settings, monotonic()
    progress(trainer.step, 0, settings.steps)
    if trainer.step == 0:
        _look(trainer, exam, book)
    while trainer.step < settings.steps:
        loss = trainer.update()
        book.curve.add(trainer.step, loss=loss, **trainer.rates())
        progress(1, 0, settings.steps)
        if trainer.step % settings.validate_every == 0 or trainer.step == settings.steps:
            _look(trainer, exam, book)
        if trainer.ranks.agree(monotonic() - saved > save_every):
            book.keep(trainer)
            saved = monotonic()


def _look(trainer: Trainer, exam: Validation, book: RunFiles) -> None:
    marks = exam.sit(trainer)
    book.held_out.add(trainer.step, **marks)
    book.draw()
    if trainer.ranks.first:
        told = ", ".join(f"{k} {v:.4f}" for k, v in marks.items())
        log.info("after %d updates: held-out %s", trainer.step, told)


def _write(
    work: DistillationJob, trainer: Trainer, book: RunFiles, purpose: dict[str, Any]
) -> dict[str, Any] | None:
    """Write OUT from the average of the weights, and let it appear."""
    with trainer.average.shown():
        names = dict(trainer.student.named_parameters())
        if not trainer.ranks.first:
            for name in names:
                trainer.hardened(name)  # the first process needs this one's rows
            return None
        source = work.plan.source
        record = {
            "schema_version": 1,
            **purpose,
            "source": {
                "id": source.id or source.origin,
                "revision": source.revision,
                "sha256": purpose["source"],
            },
            "layers": len(list(latents(trainer.student))),
            "held_out": book.held_out.rows[-1],
        }
        prefix = "transformer."
        specs = [
            TensorSpec(n.removeprefix(prefix), "BF16", tuple(p.shape)) for n, p in names.items()
        ]

        def data(name: str) -> np.ndarray:
            stored: np.ndarray = trainer.hardened(prefix + name).view(torch.uint16).numpy()
            return stored

        files = write_pipeline(book.staging, work.pipeline, specs, data, (RECORD, record), CURVES)
    book.draw()
    book.staging.commit(files)
    return record


def _tell_room(work: DistillationJob, ranks: ProcessGroup, max_memory: int | None) -> None:
    """Say what each device will hold; refuse what does not fit."""
    on_gpu = ranks.device.type == "cuda"
    parts = needed(work, ranks.size, half=on_gpu)
    if ranks.first:
        for name, n in parts.items():
            log.info("%8.3f GB  %s", n / 1e9, name)
        log.info("%8.3f GB  on each of %d devices", sum(parts.values()) / 1e9, ranks.size)
    free = int(torch.cuda.mem_get_info()[0]) if on_gpu else available() // ranks.size
    check_room(parts, min(free, max_memory or free), work.pipeline.name)
