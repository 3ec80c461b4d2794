"""What distillation.json says of the stages up to this training, for the packs to come."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bonsai_quant.conversion.provenance import earlier
from bonsai_quant.core.version import __version__
from bonsai_quant.packs.provenance import source_record
from bonsai_quant.packs.provenance_record import (
    PromptsRecord,
    ProvenanceRecord,
    RoundingStage,
    Stage,
    TrainingStage,
)
from bonsai_quant.packs.read import Pack
from bonsai_quant.training.compute import compute_here
from bonsai_quant.training.distributed import ProcessGroup
from bonsai_quant.training.source_weights import WeightErrors

from .job import DistillationJob


def provenance(
    job: DistillationJob, record: Mapping[str, Any], prompts: PromptsRecord, errors: WeightErrors,
    processes: ProcessGroup,
) -> dict[str, Any]:  # fmt: skip
    """The provenance as JSON. record: what distillation.json says besides.

    errors: of the trained weights against the source's.
    """
    digests = record["source"]["sha256"]
    before = earlier(job.plan.source, digests)
    stages: list[Stage] = list(before.stages) if before else []
    if job.start is not None:
        stages = stages_of(job.start, digests) or stages
    stages.append(
        TrainingStage(
            version=__version__,
            kind=job.settings.section,
            mode=job.plan.info.mode,
            recipe=job.recipe,
            settings=record["settings"],
            updates=job.settings.steps,
            batch=job.settings.batch,
            seed=job.seed,
            prompts=prompts,
            start=record["start"],
            held_out=record["held_out"],
            compute=compute_here(processes.size),
        )
    )
    first = before is None
    return ProvenanceRecord(
        source=before.source if before else source_record(job.plan.source, digests, ()),
        stages=stages,
        # Against weights that were rewritten or trained they say nothing of the first source's.
        relative_error=errors.relative_error if first else None,
        layers=errors.layers if first else {},
    ).model_dump(mode="json")


def stages_of(start: Pack, digests: Mapping[str, str]) -> list[Stage]:
    """The stages of the pack that training began with; none when it is of other weights.

    digests: sha256 of the files of the source that is trained.
    """
    manifest = start.manifest
    if manifest is None:
        return []
    origin = manifest.provenance.source if manifest.provenance else manifest.source
    if {f.sha256 for f in origin.files} != set(digests.values()):
        return []
    if manifest.provenance is not None:
        return list(manifest.provenance.stages)
    version = manifest.tool.get("version", "")
    return [RoundingStage(version=version, recipe=manifest.recipe)]
