"""Level kernel: the kernels of MLX, gemlite and onnxruntime on these bytes, against float64."""

from __future__ import annotations

from collections.abc import Sequence

from bonsai_quant.core.schema import PackTensor
from bonsai_quant.packs.read import Pack
from bonsai_quant.verification.kernels import KERNELS, check_pack

from .check import Check
from .job import Job


def check_kernels(job: Job) -> list[Check]:
    """Run each pack's own kernels, if it has some, on its smallest layers of different shapes."""
    return [check for pack in job.packs for check in _check(pack, job)]


def _check(pack: Pack, job: Job) -> list[Check]:
    if pack.format.name not in KERNELS:
        return []
    if pack.format.name not in job.backends:
        return [Check("kernel", pack.folder.name, "not run", "not among the backends asked for")]
    job.progress.phase(f"running the kernels of {pack.folder.name}")
    results = check_pack(pack, _sample(pack.info.packed, job.layers))
    return [Check("kernel", f"{pack.folder.name}: {r.layer}", r.status, r.reason) for r in results]


def _sample(tensors: Sequence[PackTensor], n: int) -> list[PackTensor]:
    """At most n layers, of as many different shapes as there are, smallest first."""
    by_shape = {t.shape: t for t in reversed(tensors)}
    chosen = sorted(by_shape.values(), key=lambda t: (t.size, t.name))
    chosen += [t for t in tensors if t not in chosen]
    return chosen[:n]
