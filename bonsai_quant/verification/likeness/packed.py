"""One packed layer beside the source's: what is wrong with it, and where."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from bonsai_quant.core.schema import GROUP, PackedLayer, PlannedTensor
from bonsai_quant.packs.read import Pack
from bonsai_quant.quantization.dequantize import weights

from . import limits
from .misplaced import misplaced, suspected
from .source_tensor import blocks
from .sums import Sums, cosine

FEW = 64
"""Below so many rows or groups a layer has no statistics of its own."""
DEAD = 1e-6
"""Rows and groups of the source with less than this share of the mean energy say nothing."""


class LayerLikeness(NamedTuple):
    """cosine: of the layer.  share: of the source in it.  off: groups that are switched off.

    problem: the first thing that is wrong, or ''.
    """

    cosine: float
    share: float
    off: int
    problem: str


def judge(pack: Pack, planned: PlannedTensor) -> LayerLikeness:
    """Read a layer of a pack and of a source, and compare them."""
    layer = pack.layer(planned.tensor)
    sums = Sums(layer.shape)
    for at, values in blocks(planned):
        sums.add(at, values, weights(layer, at, at + len(values)))
    return _Judgement(planned, layer, sums, pack.info.mode).result()


class _Judgement:
    """The sums of one layer, and what they say."""

    def __init__(self, planned: PlannedTensor, layer: PackedLayer, sums: Sums, mode: str) -> None:
        self.planned, self.layer, self.sums, self.mode = planned, layer, sums, mode
        source, pack, product = sums.source, sums.pack, sums.product
        energy = source.sum()
        self.share = float(product.sum() / energy) if energy else 1.0
        self.cosine = float(cosine(energy, pack.sum(), product.sum()))
        self.alive = source > DEAD * source.mean()
        sizes = np.sqrt(pack / np.where(self.alive, source, 1.0))
        self.sizes = np.where(self.alive, sizes, 1.0)
        self.size = float(np.median(self.sizes))
        self.off = self.alive & (self.sizes < limits.OFF * min(1.0, self.size))
        self.groups = cosine(source, pack, product)

    def result(self) -> LayerLikeness:
        """The first problem: those first that explain the others."""
        checks = (self._wrong_sizes, self._whole, self._strips, self._rows, self._groups,
                  self._codes, self._scales, self._weak_rows)  # fmt: skip
        problem = next(filter(None, (check() for check in checks)), "")
        return LayerLikeness(self.cosine, self.share, int(self.off.sum()), problem)

    def _whole(self) -> str:
        if self.cosine >= limits.LEAST_COSINE:
            return ""
        return (
            f"has a cosine of {self.cosine:.3f} with the source's; the same layer after any "
            f"training has at least {limits.LEAST_COSINE}"
        )

    def _strips(self) -> str:
        cosines = cosine(*self.sums.strips)
        alive = self.sums.strips[0] > DEAD * self.sums.strips[0].mean()
        at = int(np.where(alive, cosines, 1.0).argmin())
        if not alive[at] or cosines[at] >= limits.LEAST_STRIP_COSINE:
            return ""
        first = at * limits.STRIP
        return (
            f"columns {first} to {first + limits.STRIP - 1}: are not the source's, cosine "
            f"{cosines[at]:.3f}"
        )

    def _rows(self) -> str:
        if self.layer.shape[1] < 2 * GROUP:
            return ""  # a row is a group
        source, pack, product = (x.sum(1) for x in self._three)
        alive = source > DEAD * source.mean()
        cosines = np.where(alive, cosine(source, pack, product), 1.0)
        if (found := self._exchanged_row(cosines, alive)) is not None:
            return found
        mostly = (self.groups < limits.SUSPECT).mean(1) > 0.5  # not a single group of it
        cosines = np.where(mostly, cosines, 1.0)
        at = int(cosines.argmin())
        if cosines[at] < limits.LEAST_ROW_COSINE:
            return f"row {at}: is not the source's, cosine {cosines[at]:.3f}"
        sizes = np.sqrt(pack / np.where(alive, source, 1.0))
        at = int(np.where(alive, sizes, 1.0).argmin())
        if alive[at] and sizes[at] < limits.LEAST_ROW_SIZE:
            return f"row {at}: is switched off, {sizes[at]:.2g} of the source's size"
        return ""

    def _exchanged_row(self, cosines: np.ndarray, alive: np.ndarray) -> str | None:
        places = suspected(cosines, alive, limits.SUSPECT)
        if not len(places):
            return None
        found = misplaced(
            places, cosines[places], self._pack_rows(places), blocks(self.planned),
            len(cosines), limits.ROW_MARGIN,
        )  # fmt: skip
        if found is None:
            return None
        return f"row {found.at}: is row {found.source} of the source, cosine {found.cosine:.3f}"

    def _weak_rows(self) -> str:
        """Scales that do not fit their own codes, as other rows' scales do."""
        source, pack, product = (x.sum(1) for x in self._three)
        alive = (source > DEAD * source.mean()) & (product > 0)
        if alive.sum() < FEW:
            return ""
        ratio = np.where(alive, pack / np.where(alive, product, 1.0), np.inf)
        share, most = limits.LOWEST_ROWS
        lowest = float(np.quantile(ratio[alive], min(share, most / alive.sum())))
        at = int(ratio.argmin())
        if ratio[at] >= limits.LEAST_ROW_SCALE * lowest:
            return ""
        return (
            f"row {at}: its scales are {ratio[at]:.3g} of what its codes ask for, those of the "
            f"lowest other rows {lowest:.3g}"
        )

    def _wrong_sizes(self) -> str:
        wrong = self.sizes > limits.LARGEST_GROUP * self.size
        small = self.alive & (self.sizes < limits.SMALLEST_GROUP * min(1.0, self.size))
        wrong |= small & (self.groups > limits.SMALL_COSINE)
        if not wrong.any():
            return ""
        row, group = _place(int(wrong.argmax()), wrong.shape)
        return (
            f"row {row}, group {group}: scale {self.layer.scales[row, group]:g} makes it "
            f"{self.sizes[row, group]:.3g} times as large as the source's"
        )

    def _groups(self) -> str:
        valid = self.alive & ~self.off
        lowest = np.where(valid, self.groups, 1.0)
        row, group = _place(int(lowest.argmin()), lowest.shape)
        if lowest[row, group] < limits.OPPOSITE_GROUP:
            return f"row {row}, group {group}: is not the source's, cosine {lowest[row, group]:.3f}"
        return self._exchanged_group(valid) or self._too_many_off()

    def _exchanged_group(self, valid: np.ndarray) -> str:
        cosines = self.groups
        places = suspected(cosines.ravel(), valid.ravel(), limits.SUSPECT)
        if not len(places):
            return ""
        rows, groups = np.divmod(places, cosines.shape[1])
        vectors = self._pack_rows(rows).reshape(len(places), -1, GROUP)
        found = misplaced(
            places, cosines.ravel()[places], vectors[np.arange(len(places)), groups],
            self._source_groups(), cosines.size, limits.GROUP_MARGIN,
        )  # fmt: skip
        if found is None:
            return ""
        row, group = _place(found.at, cosines.shape)
        there = "row {}, group {}".format(*_place(found.source, cosines.shape))
        return f"row {row}, group {group}: is {there} of the source, cosine {found.cosine:.3f}"

    def _too_many_off(self) -> str:
        n = int(self.off.sum())
        if n <= max(2, limits.MOST_OFF * self.off.size):
            return ""
        row, group = _place(int(self.off.argmax()), self.off.shape)
        return f"row {row}, group {group}: is switched off, and so are {n - 1} other groups"

    def _codes(self) -> str:
        """The codes of the source's large weights, and the balance of all."""
        n, out = self.sums.n_large, self.layer.shape[0]
        zeros = self.sums.n_zero / max(1, n)
        opposite = limits.MOST_OPPOSITE[self.mode]
        opposite += limits.OPPOSITE_FOR_ZERO * min(max(0, zeros - 0.04), 0.04)
        for count, most, what in (
            (self.sums.n_opposite, opposite, "the opposite sign"),
            (self.sums.n_zero, limits.MOST_ZERO, "the code zero"),
        ):
            if n >= 1000 and count > most * n:
                return (
                    f"{count} of the source's {n} largest weights have {what}, {count / n:.2%}; "
                    f"training leaves less than {most:.2%}"
                )
        total = out * self.layer.shape[1]
        balance = (self.sums.signs[1] - self.sums.signs[0]) / total
        if total >= 1 << 14 and abs(balance) > limits.MOST_BALANCE:
            return f"its codes are out of balance: their mean sign is {balance:+.3f} off"
        return ""

    def _scales(self) -> str:
        on = self.alive & ~self.off  # the scale of what is off says nothing
        if on.sum() < FEW:
            return ""
        scales = np.log(self.layer.scales.astype(np.float64))
        order = _correlation(scales[on], np.log(self.sums.source[on]))
        n = scales.shape[1]
        if n > 1:
            scales = np.where(on, scales, scales[on].mean())
            others = (scales.sum(1, keepdims=True) - scales) / (n - 1)
            order = max(order, _correlation(scales.ravel(), others.ravel()))
        if order >= limits.LEAST_SCALE_ORDER:
            return ""
        return f"its scales follow neither the source's sizes nor one another, {order:.2f}"

    @property
    def _three(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.sums.source, self.sums.pack, self.sums.product

    def _pack_rows(self, rows: np.ndarray) -> np.ndarray:
        return np.concatenate([weights(self.layer, int(r), int(r) + 1) for r in rows])

    def _source_groups(self) -> Iterator[tuple[int, np.ndarray]]:
        for at, values in blocks(self.planned):
            yield at * (values.shape[1] // GROUP), values.reshape(-1, GROUP)


def _place(flat: int, shape: tuple[int, ...]) -> tuple[int, int]:
    row, group = divmod(flat, shape[1])
    return row, group


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """0 where one of them is the same everywhere."""
    x, y = a - a.mean(), b - b.mean()
    size = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / size if size > 1e-9 else 0.0
