"""One calibration: what it is bound to, its file, and its record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from bonsai_quant.conversion.calibration.record import (
    CODES,
    MOMENTS,
    RECORD,
    CalibrationRecord,
    CodesRecord,
    MomentsRecord,
)
from bonsai_quant.core.progress import Progress
from bonsai_quant.core.schema import GROUP, TensorSpec
from bonsai_quant.core.version import TOOL, __version__
from bonsai_quant.storage import fs
from bonsai_quant.storage.containers.layout import safetensors_layout
from bonsai_quant.storage.journal import Journal, finished
from bonsai_quant.storage.staging import Staging, kept_for_resume
from bonsai_quant.storage.writer import WeightFile
from bonsai_quant.training.compute import compute_here
from bonsai_quant.training.distributed import ProcessGroup
from bonsai_quant.training.trajectories.prompts import Prompts, choose_prompts, prompts_record

from .announce import announce
from .job import CalibrationJob
from .moments import PROBES
from .plain import collect
from .prepared import prepare
from .solve_layers import solve_layers
from .store import FileStore, Store


@torch.no_grad()  # type: ignore[untyped-decorator]
def run(
    job: CalibrationJob, processes: ProcessGroup, *, overwrite: bool, resume: bool,
    progress: Progress,
) -> CalibrationRecord | None:  # fmt: skip
    """Write OUT; -> its record, in the first process."""
    prompts = choose_prompts(job.pipeline, job.prompts, job.n_prompts)
    if processes.first:
        announce(job, len(prompts.used) // processes.size)
    if not processes.first:
        _work(job, prompts, processes, Store(), progress)
        return None
    identity = _identity(job)
    specs, name = (_solved_specs(job), CODES) if job.solver else (_moment_specs(job), MOMENTS)
    bound = identity | {"prompts": prompts.sha256, "layers": [[s.name, s.shape] for s in specs]}
    with (
        Staging(job.out, overwrite=overwrite, resume=resume, left=finished) as staging,
        kept_for_resume(staging),
    ):
        journal = Journal(staging, bound, resume=resume, of=len(specs))
        layout = safetensors_layout(specs, {"format": "bonsai-quant calibration"})
        file = WeightFile(staging, name, layout, resume=bool(journal.entries))
        try:
            found = _work(job, prompts, processes, FileStore(file, journal, staging), progress)
            n_bytes, sha256 = file.finish()
        finally:
            file.close()
            journal.close()
        record = _record(job, identity | found | {
            "prompts": prompts_record(prompts, job.prompts).model_dump(),
            "compute": compute_here(processes.size),
            "size": n_bytes,
            "sha256": sha256,
            "files": [RECORD, name],
        })  # fmt: skip
        staging.write_file(RECORD, record.model_dump_json(indent=2).encode() + b"\n")
        staging.commit({name, RECORD})
    return record


def _work(
    job: CalibrationJob, prompts: Prompts, processes: ProcessGroup, store: Store,
    progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    """Fill the store; -> what the record says of it."""
    prepared = prepare(job, prompts, processes)
    if job.solver is None:
        return {"states": collect(job, prepared, store, progress), "inputs": job.inputs}
    return solve_layers(job, prepared, store, progress)


def _identity(job: CalibrationJob) -> dict[str, Any]:
    """What of the record is known before the work."""
    identity: dict[str, Any] = {
        "tool": {"name": TOOL, "version": __version__},
        "base": job.plan.info.base,
        "mode": job.plan.info.mode if job.solver else None,
        "solver": job.solver,
        "source": {f.name: fs.sha256_file(f.path)[1] for f in job.plan.source.files},
        "seed": job.seed,
        "n_prompts": job.n_prompts,
        "at_once": job.at_once,
    }
    if job.size is not None:
        identity["picture_size"] = job.size
    return identity


def _record(job: CalibrationJob, fields: dict[str, Any]) -> CalibrationRecord:
    if job.solver is None:
        return MomentsRecord.model_validate({"schema_version": 1} | fields)
    return CodesRecord.model_validate({"schema_version": 2} | fields)


def _moment_specs(job: CalibrationJob) -> list[TensorSpec]:
    """One F32 tensor [in, in] for each input."""
    width = {linear: t.shape[1] for linear, t in job.layers.items()}
    names = sorted(set(job.inputs.values()))
    return [TensorSpec(n, "F32", (width[n], width[n])) for n in names]


def _solved_specs(job: CalibrationJob) -> Sequence[TensorSpec]:
    """Codes, scales and probes of every layer."""
    specs = []
    for linear, tensor in sorted(job.layers.items()):
        out, n = tensor.shape
        specs += [
            TensorSpec(f"{linear}.codes", "U8", (out, n * job.plan.info.bits // 8)),
            TensorSpec(f"{linear}.probes", "F32", (len(job.starts(linear)), 2, PROBES, n)),
            TensorSpec(f"{linear}.scales", "F16", (out, n // GROUP)),
        ]
    return specs
