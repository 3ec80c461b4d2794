"""From a pipeline to one that computes the same and rounds better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bonsai_quant.conversion.calibration import open_calibration
from bonsai_quant.conversion.calibration.moments import Moments
from bonsai_quant.conversion.plan import Plan, plan
from bonsai_quant.conversion.provenance import KEY, calibration_stage, earlier
from bonsai_quant.conversion.settings import DEFAULT_SOURCE, default_out
from bonsai_quant.core.errors import UsageError, unknown
from bonsai_quant.core.progress import Progress, no_progress
from bonsai_quant.core.schema import PlannedTensor, TensorSpec
from bonsai_quant.core.version import __version__
from bonsai_quant.packs.output import check_output
from bonsai_quant.packs.pipeline import locate
from bonsai_quant.packs.provenance import source_record
from bonsai_quant.packs.provenance_record import FoldingStage, ProvenanceRecord
from bonsai_quant.storage import fs
from bonsai_quant.storage.staging import Staging, kept_for_resume
from bonsai_quant.training.source_weights import as_weights, read
from bonsai_quant.training.write_pipeline import write_pipeline

from .flux2_blocks import MOVES, Weights, fold_double, fold_single

RECORD = "folding.json"
DEFAULT = ("heads",)


@dataclass(frozen=True, slots=True)
class Folded:
    """What was made. out: a whole pipeline.  layers: those that changed."""

    out: Path
    layers: tuple[str, ...]


def fold(
    source: str = DEFAULT_SOURCE,
    *,
    calibration: str | Path,
    out: str | Path | None = None,
    moves: Sequence[str] | str = DEFAULT,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Folded:
    """Fold a pipeline into OUT: the same model to rounding, in float32 where it changed.

    calibration: of this source in full precision; its diagonal says how large each channel is.
    moves: `heads` (values through a balanced Hadamard matrix, undone by what reads them), `scale`
    (hidden channels of the MLPs balanced), `sort` (hidden channels by size).
    """
    chosen = tuple(moves.split(",") if isinstance(moves, str) else moves)
    for move in chosen:
        if move not in MOVES:
            raise unknown("move", move, MOVES)
    pipeline = locate(source)
    if pipeline.pack is not None:
        raise UsageError("is a pack", where=source, hint="give the full-precision pipeline")
    work = plan(source, mode="ternary", formats="bonsai")
    known = open_calibration(calibration)
    if not isinstance(known, Moments):
        raise UsageError(
            "was made behind rounded layers",
            where=str(calibration),
            hint="make one without --solver, in full precision",
        )
    known.check(work.info.packed)
    digests = {f.name: fs.sha256_file(f.path)[1] for f in work.source.files}
    known.check_source(digests)
    target = default_out(source, "folded") if out is None else Path(out)
    check_output(target, work.source, overwrite=overwrite)
    folding = Folding(work, known, chosen, progress)
    record = {
        "schema_version": 1,
        "source": {
            "id": work.source.id or work.source.origin,
            "revision": work.source.revision,
            "sha256": digests,
        },
        "moves": chosen,
        "calibration": known.sha256,
        KEY: _provenance(work, known, chosen, digests).model_dump(mode="json"),
    }
    with Staging(target, overwrite=overwrite) as staging, kept_for_resume(staging):
        staging.commit(
            write_pipeline(staging, pipeline, folding.specs, folding.data, (RECORD, lambda: record))
        )
    return Folded(target, tuple(sorted(folding.changed)))


def _provenance(
    work: Plan, known: Moments, moves: Sequence[str], digests: dict[str, str]
) -> ProvenanceRecord:
    before = earlier(work.source, digests)
    return ProvenanceRecord(
        source=before.source if before else source_record(work.source, digests, ()),
        stages=[
            *(before.stages if before else ()),
            calibration_stage(known),
            FoldingStage(version=__version__, moves=list(moves)),
        ],
    )


class Folding:
    """Tensors of a source as they are or folded, a block in memory at a time."""

    def __init__(
        self, work: Plan, calibration: Moments, moves: tuple[str, ...], progress: Progress
    ) -> None:
        self.calibration, self.moves, self.progress = calibration, moves, progress
        self.tensors = {t.tensor.name: t for t in work.tensors}
        self.changed = {t.tensor.name for t in work.tensors if t.tensor.packed}
        self.block, self.done = "", Weights()
        total = sum(t.source_bytes for t in work.tensors)
        progress.phase("folding", len(self.tensors), "tensors", work=total)

    @property
    def specs(self) -> list[TensorSpec]:
        """What is written, in order of blocks."""
        return [
            TensorSpec(n, self._dtype(t), t.tensor.shape) for n, t in sorted(self.tensors.items())
        ]

    def _dtype(self, t: PlannedTensor) -> str:
        return "F32" if t.tensor.name in self.changed else t.pieces[0].stored.spec.dtype

    def data(self, name: str) -> np.ndarray:
        """A tensor's stored values."""
        tensor = self.tensors[name]
        self.progress.advance(work=tensor.source_bytes)
        if name not in self.changed:
            return read(tensor)
        block = ".".join(name.split(".")[:2])
        if block != self.block:
            self.block, self.done = block, self._fold(block)
        return self.done[name].astype(np.float32)

    def _fold(self, block: str) -> Weights:
        inside = [n for n in self.changed if n.startswith(f"{block}.")]
        short = {n.removeprefix(f"{block}.").removesuffix(".weight"): n for n in inside}
        weights = {s: as_weights(self.tensors[n]).astype(np.float64) for s, n in short.items()}

        def spread(layer: str) -> np.ndarray:
            moments = self.calibration.hessian(f"{block}.{layer}").moments
            size: np.ndarray = np.sqrt(np.diag(moments))
            return size

        fold_block = fold_single if block.startswith("single") else fold_double
        folded = weights | fold_block(weights, spread, self.moves)
        return {short[s]: w for s, w in folded.items()}
