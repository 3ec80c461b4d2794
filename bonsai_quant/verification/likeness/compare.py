"""All tensors of a pack beside a source's, one in memory at a time for each thread."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from bonsai_quant.core.progress import Progress
from bonsai_quant.core.schema import PlannedTensor
from bonsai_quant.packs.read import Pack
from bonsai_quant.sources.remote import download

from . import kept, limits, packed
from .source_tensor import whole

if TYPE_CHECKING:
    from bonsai_quant.conversion.plan import Plan


@dataclass
class Likeness:
    """problems: by tensor.  cosines: of every tensor.  off: groups that are switched off.

    shares: of the source in every packed layer.
    """

    problems: dict[str, str] = field(default_factory=dict)
    cosines: dict[str, float] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)
    off: int = 0

    def note(self, name: str, cosine: float, problem: str) -> None:
        """What was found of one tensor."""
        self.cosines[name] = cosine
        if problem:
            self.problems[name] = problem


def compare(pack: Pack, plan: Plan, threads: int, progress: Progress) -> Likeness:
    """Hold every tensor of a pack against the source that a plan names."""
    download(plan.source)
    tensors = sorted(plan.tensors, key=lambda t: t.tensor.name)
    work = sum(t.tensor.size for t in tensors)
    progress.phase("comparing with the source", len(tensors), "tensors", work=work)
    likeness, vectors = Likeness(), _Vectors()
    lock = threading.Lock()

    def look(planned: PlannedTensor) -> None:
        tensor = planned.tensor
        if tensor.packed:
            layer = packed.judge(pack, planned)
            with lock:
                likeness.shares[tensor.name] = layer.share
                likeness.off += layer.off
                likeness.note(tensor.name, layer.cosine, layer.problem)
        else:
            ours, theirs = pack.kept(tensor), whole(planned)
            near = kept.judge(ours, theirs)
            with lock:
                vectors.add(tensor.name, ours, theirs)
                likeness.note(tensor.name, near.cosine, near.problem)
        progress.advance(work=tensor.size)

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(look, tensors):
            pass
    for name, problem in vectors.exchanged().items():
        likeness.problems.setdefault(name, problem)
    for name, problem in _sizes(likeness.shares).items():
        if likeness.cosines[name] >= limits.LEAST_COSINE:
            likeness.problems[name] = problem  # it explains what was found in parts of the layer
    return likeness


class _Vectors:
    """The kept vectors of a pack and of a source, which are small."""

    def __init__(self) -> None:
        self.pack: dict[str, np.ndarray] = {}
        self.source: dict[str, np.ndarray] = {}

    def add(self, name: str, pack: np.ndarray, source: np.ndarray) -> None:
        if source.ndim == 1:
            self.pack[name], self.source[name] = pack, source

    def exchanged(self) -> dict[str, str]:
        return kept.exchanged(self.pack, self.source)


def _sizes(shares: dict[str, float]) -> dict[str, str]:
    """Layers whose scales are all too small or too large, beside the others'."""
    if not shares:
        return {}
    median = float(np.median(list(shares.values())))
    least, most = limits.SHARE
    if not least <= median <= most:
        worst = min(shares, key=lambda n: abs(shares[n] - median))
        return {worst: f"{median:.2f} of the source is in it, as in the median layer: its scales "
                       f"are not the source's"}  # fmt: skip
    least, most = limits.LAYER_SHARE
    return {
        name: f"{share:.2f} of the source is in it, {median:.2f} in the median layer: its scales "
              f"are not the source's"
        for name, share in shares.items()
        if not least <= share / median <= most
    }  # fmt: skip
