"""How much memory a conversion needs, counted before it starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bonsai_quant.core.schema import PackInfo, PlannedTensor
from bonsai_quant.packs.deployment import Deployment, work_bytes

from .calibration import Calibration

BLOCK = 8 << 20
"""Bytes of source read, solved and hashed at a time."""
PROCESS_BYTES = 260 << 20
"""Interpreter, numpy, numba and its machine code, measured."""


def conversion_memory(
    info: PackInfo,
    tensors: Sequence[PlannedTensor],
    threads: int,
    calibrated: Calibration | None,
    beside: Mapping[str, Deployment],
) -> int:
    """Bytes at the worst moment: of the transformer, or of what goes beside it afterwards."""
    solving = peak_memory(info, threads) + merge_memory(tensors, threads)
    solving += threads * calibrated.work_bytes(info.packed) if calibrated else 0
    others = [PROCESS_BYTES + work_bytes(d, threads) for d in beside.values()]
    return max(solving, *others, 0)


def peak_memory(info: PackInfo, threads: int) -> int:
    """Bytes at the worst moment: blocks in flight, and each thread finishing a largest tensor."""
    block = BLOCK * 3  # the block, its codes, and numpy's temporaries
    packed = max((t.size * info.bits // 8 for t in info.packed), default=0)
    kept = max((t.size * 2 for t in info.kept), default=0)
    # A finished layer stands in memory with its base-3, transposed and dense-chunk copies.
    return PROCESS_BYTES + (2 * threads + 2) * block + threads * max(3 * packed, 2 * kept)


def merge_memory(tensors: Sequence[PlannedTensor], threads: int) -> int:
    """Bytes of merging: a float32 block per thread, and the factors of each tensor at work."""
    if not any(t.deltas for t in tensors):
        return 0
    factors = max(sum(d.rank for d in t.deltas) * sum(t.tensor.shape) * 4 for t in tensors)
    # While they are read there are a file's bytes and a float64 copy of `up` besides.
    return threads * 2 * BLOCK + (threads + 1) * 4 * factors
