"""Read -> solve -> measure, on all cores: every tensor of a plan goes to a sink, once, solved.

The main thread reads each file from front to back in blocks; one thread hashes the blocks in that
order; the others solve them, and whoever solves a tensor's last block hands it to the sink. Results
do not depend on which thread does what.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from hashlib import sha256
from typing import Protocol

import numpy as np

from bonsai_quant.core.progress import Progress, no_progress
from bonsai_quant.core.schema import NUMPY_DTYPE, PlannedTensor, Span
from bonsai_quant.core.threads import Pool
from bonsai_quant.sources.checkpoint import SourceFile
from bonsai_quant.sources.remote import compare_with_hub, download
from bonsai_quant.storage import fs
from bonsai_quant.storage.containers.safetensors import parse_header

from .calibration import Guide
from .checks import Checks
from .memory_need import BLOCK
from .plan import Plan
from .quantize_tensor import QuantizedTensor, TensorQuantizer


class Sink(Protocol):
    """Where solved tensors go. Called from several threads, once per tensor."""

    def __call__(self, finished: QuantizedTensor) -> None:
        """Take a tensor: its packed layer or kept values, and what rounding did to it."""


def run(
    plan: Plan,
    sink: Sink,
    *,
    checks: Checks = Checks(),
    done: Collection[str] = (),
    progress: Progress = no_progress,
    label: str = "converting",
) -> dict[str, str]:
    """Solve the plan; -> sha256 of every source file, by name.

    done: names of tensors that need no solving any more; they are read and hashed all the same.
    checks: refuse tensors of zeros and implausible magnitudes.
    label: of the phase, for whoever watches.
    """
    assemblies = {
        t.tensor.name: TensorQuantizer(
            t,
            plan.recipe.solver,
            plan.info.bits,
            checks,
            t.tensor.name in done,
            _guide(plan, t),
        )
        for t in plan.tensors
    }
    progress.phase("reading source")

    def solve(span: Span, data: np.ndarray) -> None:
        finished = assemblies[span.planned.tensor.name].add(span, data)
        if finished:
            sink(finished)
        progress.advance(1 if finished else 0, work=data.nbytes)

    digests: dict[str, str] = {}
    source = download(plan.source, progress)
    work = sum(t.source_bytes for t in plan.tensors)
    progress.phase(label, len(plan.tensors), "tensors", work=work)
    with Pool(plan.threads) as pool:
        for file in source.files:
            hasher = sha256()
            for span, data in _read(file, plan):
                # One hashing thread: the order of submission is the order of the bytes.
                pool.submit(hasher.update, data.data.cast("B"), hashing=True)
                if span:
                    pool.submit(solve, span, _typed(span, data))
            pool.drain()
            digests[file.name] = hasher.hexdigest()
            compare_with_hub(source, file, digests[file.name])
    for lora in plan.loras:
        lora.check_unchanged()
    return digests


def _guide(plan: Plan, planned: PlannedTensor) -> Guide | None:
    """How the plan's calibration rounds a tensor."""
    if plan.calibration is None or not planned.tensor.packed:
        return None
    return plan.calibration.guide(planned.tensor, plan.recipe.solver, plan.info.bits)


def _read(file: SourceFile, plan: Plan) -> Iterator[tuple[Span | None, np.ndarray]]:
    """Every byte of a file, in order: the header (no span), then blocks of whole rows."""
    spans = _spans_by_offset(file, plan)
    fd, info = fs.open_regular(file.path)
    try:
        if fs.identity(info) != file.identity:
            raise fs.changed(file.path)
        start = parse_header(fd, info.st_size, file.path).data_start
        yield None, np.frombuffer(fs.pread(fd, start, 0, file.path), np.uint8)
        for span in spans:
            yield from _blocks(span, fd, file)
        if fs.identity(os.fstat(fd)) != file.identity:
            raise fs.changed(file.path)
    finally:
        os.close(fd)


def _spans_by_offset(file: SourceFile, plan: Plan) -> list[Span]:
    spans = [
        Span(t, p.stored, p.start, p.stop, p.at)
        for t in plan.tensors
        for p in t.pieces
        if p.stored.path == file.path
    ]
    return sorted(spans, key=lambda s: s.stored.offset + s.start * s.stored.row_bytes)


def _blocks(span: Span, fd: int, file: SourceFile) -> Iterator[tuple[Span, np.ndarray]]:
    row_bytes = span.stored.row_bytes
    step = max(1, BLOCK // row_bytes)
    for row in range(span.start, span.stop, step):
        stop = min(row + step, span.stop)
        data = np.empty((stop - row) * row_bytes, np.uint8)
        fs.pread_into(fd, data.data, span.stored.offset + row * row_bytes, file.path)
        at = span.at + row - span.start
        yield Span(span.planned, span.stored, row, stop, at), data


def _typed(span: Span, data: np.ndarray) -> np.ndarray:
    """The block as an array of the tensor's dtype: [rows, ...]."""
    dtype = NUMPY_DTYPE[span.stored.spec.dtype]
    return data.view(dtype).reshape(span.stop - span.start, *span.stored.spec.shape[1:])
