"""One run: load, train, validate, save, and write the result; in every process of it."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from typing import Any, cast

import numpy as np
import torch

from bonsai_quant.conversion.provenance import KEY
from bonsai_quant.core.errors import UsageError
from bonsai_quant.core.memory import available
from bonsai_quant.core.numbers import size
from bonsai_quant.core.progress import Progress
from bonsai_quant.core.schema import TensorSpec
from bonsai_quant.core.version import __version__
from bonsai_quant.packs.manifest import NAME
from bonsai_quant.packs.provenance_record import PromptsRecord
from bonsai_quant.quantization.bf16 import from_bf16
from bonsai_quant.storage import fs
from bonsai_quant.storage.staging import Staging, kept_for_resume
from bonsai_quant.training.distributed import ProcessGroup
from bonsai_quant.training.source_weights import WeightErrors, as_weights
from bonsai_quant.training.trajectories.prompts import choose_prompts, prompts_record
from bonsai_quant.training.write_pipeline import write_pipeline

from .coded_linear import CodedLinear
from .grid_linear import grid_linears
from .job import DistillationJob
from .load import load
from .memory_need import check_room, needed
from .provenance import provenance
from .record import DistillationRecord
from .run_files import RunFiles, finished
from .trainer import Trainer
from .training_loop import train

RECORD = "distillation.json"

log = logging.getLogger(__name__)


def run(
    job: DistillationJob, processes: ProcessGroup, *, overwrite: bool, resume: bool,
    save_every: float, max_memory: int | None, progress: Progress,
) -> DistillationRecord | None:  # fmt: skip
    """Train, write OUT; -> its record, in the first process."""
    if processes.size > 1 and job.settings.savings:
        raise UsageError(
            f"{', '.join(job.settings.savings)}: these savings are for one process",
            hint="take them out of the recipe; torchrun divides the memory among processes",
        )
    prompts = choose_prompts(job.pipeline, job.prompts, job.settings.prompts)
    _check_memory(job, processes, max_memory)
    purpose = {
        "source": {f.name: fs.sha256_file(f.path)[1] for f in job.plan.source.files},
        "mode": job.plan.info.mode,
        "layers": job.modes,
        "settings": job.settings.model_dump(mode="json", by_alias=True),
        "seed": job.seed,
        "prompts": {"number": len(prompts.used), "sha256": prompts.sha256},
        "start": None if job.start is None else fs.sha256_file(job.start.folder / NAME)[1],
        "version": __version__,
    }
    with ExitStack() as stack:
        staging = Staging(job.out, overwrite=overwrite, resume=resume, left=finished)
        run_files = RunFiles(staging, processes)
        if processes.first:
            stack.enter_context(staging)
            stack.enter_context(kept_for_resume(staging))
            run_files.bind(purpose, resume=resume)
        processes.wait()
        trainer, validation = load(job, processes, prompts)
        if resume:
            run_files.restore(trainer)
        train(trainer, validation, run_files, save_every, progress)
        return _write(job, trainer, run_files, purpose, prompts_record(prompts, job.prompts))


def _write(
    job: DistillationJob, trainer: Trainer, run_files: RunFiles, purpose: dict[str, Any],
    prompts: PromptsRecord,
) -> DistillationRecord | None:  # fmt: skip
    """Write OUT from the running mean of the weights, and let it appear."""
    with trainer.ema.swapped_in():
        names = dict(trainer.student.named_parameters())
        if not trainer.processes.first:
            for name in names:
                trainer.stored_weight(name)  # the first process needs this one's rows
            return None
        source = job.plan.source
        record: dict[str, Any] = {
            "schema_version": 1,
            **purpose,
            "source": {
                "id": source.id or source.origin,
                "revision": source.revision,
                "sha256": purpose["source"],
            },
            "layers": len(list(grid_linears(trainer.student))),
            "held_out": run_files.held_out.rows[-1],
        }
        prefix, errors = "transformer.", WeightErrors()
        shapes = {t.tensor.name: t.tensor.shape for t in job.plan.tensors}
        parameters = {_weight_name(n.removeprefix(prefix)): n for n in names}
        specs = [TensorSpec(n, "BF16", shapes[n]) for n in parameters]

        def data(name: str) -> np.ndarray:
            stored: np.ndarray = trainer.stored_weight(parameters[name]).view(torch.uint16).numpy()
            if name in packed:
                errors.add(packed[name].tensor.linear, as_weights(packed[name]), from_bf16(stored))
            return stored

        def whole() -> dict[str, Any]:
            return record | {KEY: provenance(job, record, prompts, errors, trainer.processes)}

        packed = {t.tensor.name: t for t in job.plan.tensors if t.tensor.packed}
        files = write_pipeline(
            run_files.staging, job.pipeline, specs, data, (RECORD, whole), run_files.draw()
        )
    run_files.staging.commit(files)
    return cast(DistillationRecord, record)


def _weight_name(parameter: str) -> str:
    """The tensor that a parameter of the student is stored as."""
    module, _, last = parameter.rpartition(".")
    return f"{module}.weight" if last == CodedLinear.learned else parameter


def _check_memory(job: DistillationJob, processes: ProcessGroup, max_memory: int | None) -> None:
    """Log what each device will hold; refuse what does not fit."""
    on_gpu = processes.device.type == "cuda"
    parts = needed(job, processes.size, half=on_gpu)
    if processes.first:
        for name, n in parts.items():
            log.info("%s  %s", size(n), name)
        log.info("%s  on each of %d devices", size(sum(parts.values())), processes.size)
    free = int(torch.cuda.mem_get_info()[0]) if on_gpu else available() // processes.size
    check_room(parts, min(free, max_memory or free), job.pipeline.name)
