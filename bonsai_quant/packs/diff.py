"""Compare two packs, in any two formats: flipped codes, drifted scales, changed kept values."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bonsai_quant.core.errors import Unsupported
from bonsai_quant.core.progress import Progress, no_progress
from bonsai_quant.core.schema import PackTensor
from bonsai_quant.core.threads import choose_threads

from .read import Pack, open_one


@dataclass(frozen=True, slots=True)
class LayerDiff:
    """How one tensor differs. size: of how many weights.

    flipped: codes that changed.  sign_flips: those that went from -1 to +1 or back.
    scale_drift: largest |b - a| / a of a group that is not zeros in both.
    kept_changed: values that changed in a tensor that is not packed; all else is 0 there.
    """

    name: str
    size: int
    flipped: int
    sign_flips: int
    scale_drift: float
    kept_changed: int = 0

    @property
    def same(self) -> bool:
        """Nothing changed."""
        return self.flipped == 0 and self.scale_drift == 0 and self.kept_changed == 0


@dataclass(frozen=True, slots=True)
class PackDiff:
    """Two packs side by side. only_a, only_b: tensors that one of them packs or keeps alone."""

    a: Path
    b: Path
    settings: tuple[tuple[str, str, str], ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    layers: tuple[LayerDiff, ...]

    @property
    def same(self) -> bool:
        """The two packs decode to the same weights."""
        return not self.only_a and not self.only_b and all(d.same for d in self.layers)


def diff(
    a: str | Path,
    b: str | Path,
    *,
    threads: int | None = None,
    progress: Progress = no_progress,
) -> PackDiff:
    """Compare tensor by tensor. Layers are in name order; both packs must be of one mode."""
    first, second = open_one(Path(a)), open_one(Path(b))
    if first.info.mode != second.info.mode:
        raise Unsupported(
            f"{a} is {first.info.mode} and {b} is {second.info.mode}; codes of "
            "different modes cannot be compared",
            hint="compare packs of one mode",
        )
    mine = {(t.name, t.shape, t.packed): t for t in first.info.tensors}
    theirs = {(t.name, t.shape, t.packed): t for t in second.info.tensors}
    both = [mine[k] for k in mine if k in theirs]

    progress.phase("comparing", len(both), "tensors", work=sum(t.size for t in both))

    def one(tensor: PackTensor) -> LayerDiff:
        result = _compare(first, second, tensor)
        progress.advance(work=tensor.size)
        return result

    with ThreadPoolExecutor(choose_threads(threads)[0]) as pool:
        layers = tuple(pool.map(one, both))
    return PackDiff(
        Path(a),
        Path(b),
        _settings(first, second),
        tuple(sorted(k[0] for k in mine if k not in theirs)),
        tuple(sorted(k[0] for k in theirs if k not in mine)),
        layers,
    )


def worst(layers: Sequence[LayerDiff], n: int) -> list[LayerDiff]:
    """The n packed layers that changed most, by share of flipped codes, then by drift."""
    changed = [d for d in layers if d.flipped or d.scale_drift]
    return sorted(changed, key=lambda d: (-d.flipped / d.size, -d.scale_drift, d.name))[:n]


def worst_kept(layers: Sequence[LayerDiff], n: int) -> list[LayerDiff]:
    """The n tensors that are not packed and changed most, by share of changed values."""
    changed = [d for d in layers if d.kept_changed]
    return sorted(changed, key=lambda d: (-d.kept_changed / d.size, d.name))[:n]


def _compare(a: Pack, b: Pack, tensor: PackTensor) -> LayerDiff:
    from bonsai_quant.quantization.dequantize import zero_groups

    if not tensor.packed:
        changed = int(np.count_nonzero(a.kept(tensor) != b.kept(tensor)))
        return LayerDiff(tensor.name, tensor.size, 0, 0, 0.0, changed)
    mine, theirs = a.layer(tensor), b.layer(tensor)
    flipped, signs = _flips(mine.codes, theirs.codes, a.info.bits)
    s, t = mine.scales.astype(np.float32), theirs.scales.astype(np.float32)
    drift = np.where(zero_groups(mine) & zero_groups(theirs), 0, np.abs(t - s) / s)
    return LayerDiff(tensor.name, tensor.size, flipped, signs, float(drift.max()))


def _flips(a: np.ndarray, b: np.ndarray, bits: int) -> tuple[int, int]:
    """Number of codes that differ, and of those whose sign does."""
    changed = a ^ b
    if bits == 1:
        n = _ones(changed)
        return n, n
    either = (changed | changed >> np.uint8(1)) & np.uint8(0x55)
    # -1 is 00, 0 is 01 and +1 is 10: only a change of sign leaves the low bits equal.
    sign = (changed >> np.uint8(1)) & ~changed & np.uint8(0x55)
    return _ones(either), _ones(sign)


def _ones(bits: np.ndarray) -> int:
    return int(np.bitwise_count(bits).sum(dtype=np.int64))


def _settings(a: Pack, b: Pack) -> tuple[tuple[str, str, str], ...]:
    """What the two packs say of themselves, where they differ."""

    def facts(p: Pack) -> dict[str, str]:
        m = p.manifest
        settings = {"base": p.info.base, "format": p.format.name}
        if m:
            hashes = ", ".join(f.sha256[:12] for f in m.source.files)
            settings |= {
                "solver": str(m.recipe.get("solver", "unknown")),
                "source": hashes,
                "lora": ", ".join(f"{x.name}:{x.scale:g}" for x in m.source.lora) or "none",
                "version": m.tool["version"],
            }
        return settings

    x, y = facts(a), facts(b)
    return tuple((k, x.get(k, "?"), y.get(k, "?")) for k in sorted(x | y) if x.get(k) != y.get(k))
