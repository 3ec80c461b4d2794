"""The stages that a conversion ends: what its source's folder tells of them, and its own."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import pydantic

from bonsai_quant.core.errors import BadInput, first_problem
from bonsai_quant.core.schema import LayerStats
from bonsai_quant.core.version import __version__
from bonsai_quant.packs.provenance import measure, source_record
from bonsai_quant.packs.provenance_record import (
    CalibrationStage,
    ProvenanceRecord,
    RoundingStage,
    Stage,
)
from bonsai_quant.sources.checkpoint import ORIGINS, Source
from bonsai_quant.storage.strict_json import read_json

from .calibration import Calibration
from .plan import Plan

log = logging.getLogger(__name__)
KEY, WEIGHTS = "provenance", "weights"
"""In the record of a trained or folded pipeline: its provenance, and sha256 of its weight file."""


def earlier(source: Source, digests: Mapping[str, str]) -> ProvenanceRecord | None:
    """The provenance that the folder of a trained or folded source tells; None for every other.

    digests: sha256 of its files, by name.  None also where the weights are no longer those that
    the folder's record is about.
    """
    for name in ORIGINS if source.id is None else ():
        path = source.root / name
        record = read_json(path) if path.is_file() else None
        if not isinstance(record, dict) or KEY not in record:
            continue
        if record.get(WEIGHTS) not in digests.values():
            log.warning("%s: is about other weights than lie beside it; it is not quoted", path)
            return None
        return _parsed(record[KEY], path)
    return None


def _parsed(data: object, path: Path) -> ProvenanceRecord:
    try:
        return ProvenanceRecord.model_validate(data)
    except pydantic.ValidationError as e:
        raise BadInput(
            f"{KEY}.{first_problem(e)}", where=str(path), hint="make it again, or remove the file"
        ) from e


def provenance_of(
    plan: Plan, digests: dict[str, str], stats: Sequence[LayerStats]
) -> ProvenanceRecord | None:
    """What the manifest will say of the stages; None where a source was rounded, and no more.

    digests: sha256 of the source's files, by name.  stats: of every tensor.
    """
    before, measured = earlier(plan.source, digests), measure(stats)
    if before is None and plan.calibration is None:
        return None
    stages: list[Stage] = list(before.stages) if before else []
    if plan.calibration is not None:
        stages.append(calibration_stage(plan.calibration))
    # What lies on the grid already is only stored: that is no stage.
    if plan.calibration is not None or not measured.lossless:
        recipe = plan.recipe.model_dump(mode="json")
        stages.append(RoundingStage(version=__version__, recipe=recipe))
    if before is None:
        return ProvenanceRecord(
            source=source_record(plan.source, digests, plan.loras),
            recovery=plan.recovery,
            stages=stages,
            relative_error=measured.relative_error,
        )
    known = measured.lossless  # otherwise nobody compared the result with the first source
    return before.model_copy(
        update={
            "stages": stages,
            "recovery": plan.recovery or (before.recovery if known else None),
            "relative_error": before.relative_error if known else None,
            "layers": before.layers if known else {},
        }
    )


def calibration_stage(calibration: Calibration) -> CalibrationStage:
    """What a manifest says of a calibration."""
    record = calibration.record
    return CalibrationStage(
        version=record.tool.get("version", ""),
        sha256=calibration.sha256,
        mode=record.mode,
        solver=record.solver,
        prompts=record.prompts,
        n_prompts=record.n_prompts,
        at_once=record.at_once,
        states=record.states,
        seed=record.seed,
        compute=record.compute,
    )
