"""Level codes: every value is legal, and all formats decode to the same float32 weights."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from bonsai_quant.core.errors import BonsaiError
from bonsai_quant.core.progress import Progress
from bonsai_quant.core.schema import PackTensor
from bonsai_quant.packs.read import Pack

from .check import Check
from .job import Job

ROWS = 1024
"""Rows decoded to float32 at a time."""


def check_codes(job: Job) -> list[Check]:
    """Every pack alone, and each against the first: the same float32 weights, bit for bit."""
    checks = list(job.unreadable)
    for i, pack in enumerate(job.packs, 1):
        tensors = pack.info.tensors
        work = sum(t.size for t in tensors)
        job.progress.phase(
            f"checking pack {i}/{len(job.packs)}", len(tensors), "tensors", work=work
        )
        other = job.packs[0] if pack is not job.packs[0] else None
        subject = pack.folder.name + (f" = {other.folder.name}" if other else "")
        problem, n_rounded = _first_problem(pack, other, job.threads, job.progress)
        detail = problem or f"{len(pack.info.packed)} packed and {len(pack.info.kept)} kept tensors"
        if n_rounded and not problem:
            detail += f"; {n_rounded} kept values are finer than fp16, which rounds them"
        checks.append(Check("codes", subject, "failed" if problem else "passed", detail))
    return checks


def _first_problem(
    pack: Pack, other: Pack | None, threads: int, progress: Progress
) -> tuple[str, int]:
    """The first illegal or differing tensor, in name order, or ''; and how many were rounded."""
    if other and [(t.name, t.shape) for t in pack.info.tensors] != [
        (t.name, t.shape) for t in other.info.tensors
    ]:
        return f"{pack.folder} and {other.folder} hold different tensors", 0

    def check_tensor(tensor: PackTensor) -> tuple[str, int]:
        compare = _compare_packed if tensor.packed else _compare_kept
        try:
            problem, n_rounded = compare(pack, other, tensor)
        except BonsaiError as e:
            return str(e), 0
        progress.advance(work=tensor.size)
        return problem, n_rounded

    n_rounded = 0
    with ThreadPoolExecutor(threads) as pool:
        for problem, n in pool.map(check_tensor, pack.info.tensors):
            if problem:
                return problem, 0
            n_rounded += n
    return "", n_rounded


def _compare_kept(pack: Pack, other: Pack | None, tensor: PackTensor) -> tuple[str, int]:
    """How a kept tensor differs from the other pack's, or ''; and how many values were rounded."""
    values, n_rounded = pack.kept_and_rounded(tensor)
    if other is None or np.array_equal(values.view(np.uint16), other.kept(tensor).view(np.uint16)):
        return "", n_rounded
    return f"{tensor.name}: kept values differ from {other.folder.name}", n_rounded


def _compare_packed(pack: Pack, other: Pack | None, tensor: PackTensor) -> tuple[str, int]:
    """How a packed layer's weights differ from the other pack's, or ''; none of them is rounded."""
    parts = pack.parts(tensor)
    layer = pack.layer(tensor, parts)
    if other is None:
        return "", 0
    other_parts = other.parts(tensor)
    other_layer = other.layer(tensor, other_parts)
    for start in range(0, tensor.shape[0], ROWS):
        stop = min(start + ROWS, tensor.shape[0])
        a = pack.format.dense(layer, parts, start, stop)
        b = other.format.dense(other_layer, other_parts, start, stop)
        wrong = a.view(np.uint32) != b.view(np.uint32)
        if wrong.any():
            row, column = (int(i) for i in np.argwhere(wrong)[0])
            return (
                f"{tensor.name}: row {start + row}, column {column}: {a[row, column]:g}, but "
                f"{b[row, column]:g} in {other.folder.name}"
            ), 0
    return "", 0
