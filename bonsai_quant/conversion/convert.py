"""The heart: read -> solve -> measure -> write each planned tensor, then one rename."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bonsai_quant.core.errors import OutputExists
from bonsai_quant.core.progress import Progress, no_progress
from bonsai_quant.core.recipe import Recipe
from bonsai_quant.core.schema import LayerStats, to_json
from bonsai_quant.packs.deployment import Beside
from bonsai_quant.packs.deployment.write import deploy
from bonsai_quant.packs.formats import DEFAULT_FORMATS
from bonsai_quant.packs.layers_csv import layers_csv
from bonsai_quant.packs.manifest import Manifest, Measured
from bonsai_quant.packs.output import check_output
from bonsai_quant.packs.provenance import Provenance, measure, source_record
from bonsai_quant.packs.quality import WEIGHTS_ERROR
from bonsai_quant.packs.write import PackWriter
from bonsai_quant.storage.disk import require_free_disk
from bonsai_quant.storage.journal import Journal, finished
from bonsai_quant.storage.staging import Staging, kept_for_resume

from .checks import Checks
from .options import ConversionOptions
from .plan import Plan, plan_conversion
from .provenance import provenance_of
from .resume import purpose, still_true
from .settings import DEFAULT_SOURCE, default_out

if TYPE_CHECKING:
    from .quantize_tensor import QuantizedTensor


log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Converted:
    """What a conversion made. manifests: by format.  layers: sorted by name."""

    out: Path
    manifests: dict[str, Manifest]
    layers: tuple[LayerStats, ...]


@dataclass(slots=True)
class _Run:
    """The state of one conversion: its writers, its journal, and what is finished."""

    writers: dict[str, PackWriter]
    journal: Journal
    stats: dict[str, LayerStats] = field(default_factory=dict)
    resumed: dict[str, str] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, finished: QuantizedTensor) -> None:
        """Write a solved tensor in every format, then note it in the journal."""
        tensor = finished.planned.tensor
        if finished.stats is None:
            self._check_resumed(finished)
            return
        sums = {}
        for name, writer in self.writers.items():
            if finished.layer is not None:
                sums[name] = writer.packed(tensor, finished.layer)
            elif finished.kept is not None:
                sums[name] = writer.kept(tensor, finished.kept)
        with self.lock:
            self.stats[tensor.name] = finished.stats
        plain = {f: {n: [s.xxh3, s.crc32] for n, s in p.items()} for f, p in sums.items()}
        self.journal.add(
            {
                "tensor": tensor.name,
                "source": finished.source_digest,
                "sums": plain,
                "stats": to_json(finished.stats),
            }
        )

    def _check_resumed(self, finished: QuantizedTensor) -> None:
        name = finished.planned.tensor.name
        if self.resumed[name] != finished.source_digest:
            raise OutputExists(
                f"the interrupted run read another {name} than the source now holds",
                hint="run without --resume and with --overwrite to start again",
            )


def convert(
    source: str = DEFAULT_SOURCE,
    *,
    mode: str | None = None,
    out: str | Path | None = None,
    formats: Sequence[str] | str = DEFAULT_FORMATS,
    recipe: str | Path | Recipe | None = None,
    solver: str | None = None,
    calibration: str | Path | None = None,
    lora: Sequence[str] | str = (),
    lora_partial: bool = False,
    revision: str | None = None,
    overwrite: bool = False,
    resume: bool = False,
    threads: int | None = None,
    max_memory: int | None = None,
    strict: bool = False,
    transformer_only: bool = False,
    checks: Checks = Checks(),
    progress: Progress = no_progress,
) -> Converted:
    """Convert a source into OUT/<format>/ for every format; OUT appears whole or not at all.

    The arguments are the fields of `ConversionOptions`, and these.  out: `./<name>-<mode>` when
    None.  progress: told of what is read and written.
    Raises the errors of `errors.py`; whatever fails, an existing OUT is as it was.
    """
    options = ConversionOptions(
        mode=mode, recipe=recipe, solver=solver, calibration=calibration, lora=lora,
        lora_partial=lora_partial, formats=formats, revision=revision, threads=threads,
        max_memory=max_memory, strict=strict, transformer_only=transformer_only,
    )  # fmt: skip
    work = plan_conversion(source, options)
    target = Path(out) if out is not None else default_out(source, work.info.mode)
    return write_packs(
        work, target, overwrite=overwrite, resume=resume, checks=checks, progress=progress
    )


def write_packs(
    plan: Plan,
    out: Path,
    *,
    overwrite: bool = False,
    resume: bool = False,
    checks: Checks = Checks(),
    progress: Progress = no_progress,
) -> Converted:
    """Carry out a plan. What an interruption or a full disk leaves is kept for `resume`."""
    from .stream import run

    check_output(out, plan.source, overwrite=overwrite)
    if not resume:
        require_free_disk(plan.output_bytes, out)
    with (
        Staging(out, overwrite=overwrite, resume=resume, left=finished) as staging,
        kept_for_resume(staging),
    ):
        with _opened(plan, staging, resume) as state:
            digests = run(plan, state.take, checks=checks, done=state.resumed, progress=progress)
            if plan.calibration is not None:
                plan.calibration.check_source(digests)
            stats = tuple(state.stats[name] for name in sorted(state.stats))
            provenance = Provenance(
                plan.recipe,
                source_record(plan.source, digests, plan.loras),
                measure(stats),
                layers_csv(stats),
                plan.calibration.sha256 if plan.calibration else None,
                provenance_of(plan, digests, stats),
            )
            beside = {
                f: deploy(staging, f, d, threads=plan.threads, progress=progress)
                for f, d in plan.beside.items()
            }
            manifests = _finish(state.writers, provenance, beside, plan.threads, progress)
        _log_error(provenance.measured)
        staging.commit({f for n, m in manifests.items() for f in state.writers[n].written(m)})
    return Converted(out, manifests, stats)


def _log_error(measured: Measured | None) -> None:
    if measured and not measured.lossless:
        log.info("relative error of the weights: %.4f. %s", measured.relative_error, WEIGHTS_ERROR)


def _finish(
    writers: dict[str, PackWriter],
    provenance: Provenance,
    beside: dict[str, Beside],
    threads: int,
    progress: Progress,
) -> dict[str, Manifest]:
    """Read back and hash all files, in parallel; an interruption does not wait for the rest."""

    def finish(writer: PackWriter, other: Beside) -> Manifest:
        manifest = writer.finish(provenance, other)
        progress.advance()
        return manifest

    progress.phase("reading back and hashing", len(writers), "formats")
    with ThreadPoolExecutor(threads) as pool:
        try:
            others = [beside.get(name, Beside()) for name in writers]
            finished = pool.map(finish, writers.values(), others)
            return dict(zip(writers, finished, strict=True))
        except BaseException:
            for writer in writers.values():
                writer.weights.stop()
            raise


@contextlib.contextmanager
def _opened(plan: Plan, staging: Staging, resume: bool) -> Iterator[_Run]:
    journal = Journal(staging, purpose(plan), resume=resume, of=len(plan.tensors))
    writers: dict[str, PackWriter] = {}
    try:
        for name in plan.formats:
            useful = bool(journal.entries)
            writers[name] = PackWriter(staging, name, name, plan.info, resume=useful)
        state = _Run(writers, journal)
        for stats, digest in still_true(plan, journal, writers):
            state.stats[stats.name], state.resumed[stats.name] = stats, digest
        yield state
    finally:
        for writer in writers.values():
            writer.weights.close()
        journal.close()
