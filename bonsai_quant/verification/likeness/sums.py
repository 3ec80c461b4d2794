"""What is kept of a packed layer and the source's while their rows pass by."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from bonsai_quant.core.schema import GROUP

from .limits import LARGE, STRIP


@dataclass
class Sums:
    """Sums of squares and products, for each group, and for each strip of columns.

    source, pack, product: [out, in / 128].  strips: the same three [3, in / 16].
    n_large: large weights of the source.  n_opposite, n_zero: those of them whose sign in the pack
    is the opposite, or whose code is zero.  signs: sum of signs of the source, and of the pack.
    """

    shape: tuple[int, int]
    source: np.ndarray = field(init=False)
    pack: np.ndarray = field(init=False)
    product: np.ndarray = field(init=False)
    strips: np.ndarray = field(init=False)
    n_large: int = 0
    n_opposite: int = 0
    n_zero: int = 0
    signs: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        out, n = self.shape
        self.source, self.pack, self.product = (np.empty((out, n // GROUP)) for _ in range(3))
        self.strips = np.zeros((3, n // STRIP))

    def add(self, at: int, source: np.ndarray, pack: np.ndarray) -> None:
        """Rows from `at`: [rows, in] float32 each."""
        rows = slice(at, at + len(source))
        pairs = ((source, source), (pack, pack), (source, pack))
        for i, (into, (a, b)) in enumerate(
            zip((self.source, self.pack, self.product), pairs, strict=True)
        ):
            parts = np.einsum("rsc,rsc->rs", _cut(a, STRIP), _cut(b, STRIP)).astype(np.float64)
            self.strips[i] += parts.sum(0)
            into[rows] = _cut(parts, GROUP // STRIP).sum(-1)
        self._add_signs(rows, source, pack)

    def _add_signs(self, rows: slice, source: np.ndarray, pack: np.ndarray) -> None:
        limit = LARGE * np.sqrt(self.source[rows] / GROUP).astype(np.float32)
        sign = np.sign(source)
        large = np.abs(_cut(source, GROUP)) > limit[..., None]
        seen = (_cut(sign, GROUP) * _cut(pack, GROUP))[large]
        self.n_large += seen.size
        self.n_opposite += int((seen < 0).sum())
        self.n_zero += int((seen == 0).sum())
        sums = (float(sign.sum()), float(np.sign(pack).sum()))
        self.signs = (self.signs[0] + sums[0], self.signs[1] + sums[1])


def _cut(x: np.ndarray, width: int) -> np.ndarray:
    """[rows, n] -> [rows, n / width, width]"""
    return x.reshape(len(x), -1, width)


def cosine(source: np.ndarray, pack: np.ndarray, product: np.ndarray) -> np.ndarray:
    """From sums of squares and of products; 1 where both are zero, 0 where one is."""
    both = np.sqrt(source * pack)
    empty = (source == 0) & (pack == 0)
    result: np.ndarray = np.where(empty, 1.0, product / np.where(both > 0, both, np.inf))
    return result
