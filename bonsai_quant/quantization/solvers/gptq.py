"""Error feedback: codes and scales that keep a layer's outputs rather than its weights.

The objective is d H d' of a row's error d = w - s t, H = E[x x'] of the layer's inputs. Rows do not
meet, and are worked on together, so that nearly all is products of float32 matrices.
1. The sweep, GPTQ (https://arxiv.org/abs/2210.17323): column after column; what rounding one of
   them did to the outputs is made up for by those to come. With R R' = H, R upper, d H d' is
   |d R|^2, and column k can take away what d_1 .. d_k-1 left in (d R)_k: GPTQ without an inverse
   (https://arxiv.org/abs/2507.18553). A group's scale is chosen when the sweep reaches it, by the
   exact weighted search, an error in column k weighing R_kk^2 by then.
2. Passes over the groups, back and forth in turn: scale and codes of a group are changed together,
   as long as that lowers the objective (`columns.descend_group`); the last passes look on behind
   what no single change betters. That needs (d H)_g for d as it is by then.
   Groups before g give one part of it, which going forth sums up on its way, and groups behind g
   the other, which going back does. So a pass is a product with half of H, and as sums begin anew
   with every pass, no rounding is carried on.
The sweep is two such halves, and a pass is one: (2 + PASSES) in^2 operations a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from bonsai_quant.core.schema import GROUP, Mode
from bonsai_quant.quantization import packing
from bonsai_quant.quantization.bf16 import as_float32
from bonsai_quant.quantization.grid import SMALLEST
from bonsai_quant.quantization.hessian import Hessian

from .columns import descend_group, largest, round_group
from .measure import measured
from .solver import Solved

PASSES = 10
"""Over all groups of a row after the sweep, back and forth in turn."""
SEARCHES, PATIENCE = 4, 16
"""Passes, the last ones, that look on behind what no single code betters; for so many steps."""
WORK_BYTES = 256 << 20
"""Memory for the rows that are solved together, in each of which an input takes these: four float32
of `_Rows` and the weight, a code, and those of a group, on its way."""
BYTES_AN_INPUT = 24


@dataclass(frozen=True, slots=True)
class Chosen:
    """Rows of a layer, solved.

    codes: [rows, in] int8 in {-1, 0, 1}.  scales: [rows, in / 128] float32 on the grid, inf where
    it is too large.  below: [rows, in / 128] bool, where the sweep's best was below the grid.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    below: torch.Tensor


def solve(weight: np.ndarray, mode: Mode, bits: int, hessian: Hessian | None) -> Solved:
    """See `solver.Solve`. Codes are not the nearest ones, so they are packed and measured here."""
    assert hessian is not None
    w = torch.from_numpy(np.ascontiguousarray(as_float32(weight)))
    chosen = choose(w.to(hessian.tensor.device), hessian, mode)
    t = chosen.codes.cpu().numpy()
    codes = packing.pack((t + 1 if bits == 2 else (t + 1) // 2).astype(np.uint8), bits)
    with np.errstate(over="ignore"):
        scales = chosen.scales.cpu().numpy().astype(np.float16)
    solved = measured(weight, codes, scales, bits)
    return Solved(codes, scales, solved.sums, chosen.below.sum(1).cpu().numpy())


def choose(weight: torch.Tensor, hessian: Hessian, mode: Mode) -> Chosen:
    """weight: [rows, in] float32, where the Hessian is -> codes and scales.

    Beside both it takes the Hessian's factor, 4 in^2 bytes, and WORK_BYTES.
    """
    rows, n = weight.shape
    some = max(1, WORK_BYTES // (BYTES_AN_INPUT * n))
    parts = [_Rows(weight[at : at + some], hessian, mode).solved() for at in range(0, rows, some)]
    codes, scales, below = (
        torch.cat([getattr(p, part) for p in parts]) for part in ("codes", "scales", "below")
    )
    return Chosen(codes, scales, below)


def objective(
    weight: torch.Tensor, hessian: Hessian, codes: torch.Tensor, scales: torch.Tensor
) -> torch.Tensor:
    """What is lowered, of every row: [rows] float64."""
    d = weight - codes * scales.repeat_interleave(GROUP, 1)
    return ((d @ hessian.tensor + hessian.added * d) * d).sum(1, dtype=torch.float64)


class _Rows:
    """Some rows on their way. t, s: codes and scales, group first. d: errors, [rows, in].
    before, behind: of (d H)_g the parts by the groups before and behind g."""

    def __init__(self, w: torch.Tensor, hessian: Hessian, mode: Mode) -> None:
        self.w, self.mode, self.h, self.factor = w, mode, hessian.tensor, hessian.factor
        groups = w.shape[1] // GROUP
        self.columns = [(g, slice(g * GROUP, (g + 1) * GROUP)) for g in range(groups)]
        self.added = hessian.added * torch.eye(GROUP, device=w.device)
        self.t = w.new_empty((groups, len(w), GROUP), dtype=torch.int8)
        self.s = w.new_empty((groups, len(w)))
        self.below, self.too_large = (torch.empty_like(self.s, dtype=torch.bool) for _ in range(2))
        self.d, self.before, self.behind = (torch.zeros_like(w) for _ in range(3))

    def solved(self) -> Chosen:
        """Sweep, pass, and put rows first."""
        self._sweep()
        for i in range(PASSES):
            self._pass(i)
        scales = torch.where(self.too_large, torch.inf, self.s)
        codes = self.t.transpose(0, 1).reshape(self.w.shape)
        return Chosen(codes, scales.T, self.below.T)

    def _sweep(self) -> None:
        """First codes and scales, and `before`."""
        passed = self.behind  # d R, until it is filled with what it is named for
        for g, c in self.columns:
            here, w = self.factor[c, c], self.w[:, c]
            ideal = w + torch.linalg.solve_triangular(here, passed[:, c], upper=True, left=False)
            best, self.below[g] = on_grid(best_scales(ideal, here.diagonal() ** 2, self.mode))
            self.too_large[g] = ~(best <= largest(self.mode))
            self.s[g] = torch.where(self.too_large[g], largest(self.mode), best)
            self.t[g] = round_group(w, passed[:, c], here, self.s[g], self.mode)
            self._take_errors(g, c)
            for total, part in ((passed, self.factor), (self.before, self.h)):
                total[:, c.stop :].addmm_(self.d[:, c], part[c, c.stop :])

    def _pass(self, i: int) -> None:
        """Back when i is even, forth when it is odd."""
        back, patience = i % 2 == 0, PATIENCE if i >= PASSES - SEARCHES else 0
        total = self.behind if back else self.before
        total.zero_()
        for g, c in self.columns[::-1] if back else self.columns:
            h = self.h[c, c] + self.added
            others = torch.addmm(self.before[:, c] + self.behind[:, c], self.w[:, c], h)
            v = self.t[g].float() @ h
            descend_group(others, v, h, self.s[g], self.t[g], self.mode, patience)
            self._take_errors(g, c)
            ahead = slice(0, c.start) if back else slice(c.stop, None)
            total[:, ahead].addmm_(self.d[:, c], self.h[c, ahead])

    def _take_errors(self, g: int, c: slice) -> None:
        self.d[:, c] = self.w[:, c] - self.s[g][:, None] * self.t[g]


def best_scales(x: torch.Tensor, h: torch.Tensor, mode: Mode) -> torch.Tensor:
    """min over s and t of sum_j h_j (x_j - s t_j)^2, as in weighted.py. x: [rows, 128] -> s."""
    size = x.abs()
    if mode == "binary":
        return size @ h / h.sum()
    size, order = size.sort(1, descending=True)
    weights = h[order]
    total, mass = (weights * size).cumsum(1), weights.cumsum(1)
    best = (total * total / mass).argmax(1, keepdim=True)
    return (total / mass).gather(1, best)[:, 0]


def on_grid(s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales of the grid, without its upper end, and where they were too small.

    As `grid.round_to_grid`: bf16 rounds to the same eight bits, half to even.
    """
    rounded = s.bfloat16().float()
    below = rounded < SMALLEST
    return torch.where(below, SMALLEST, rounded), below
