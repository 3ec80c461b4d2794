"""What `columns` compiles for the processor, for all rows at once in torch, for a GPU."""

from __future__ import annotations

import torch

from bonsai_quant.quantization.grid import SMALLEST


def round_group(
    w: torch.Tensor, passed: torch.Tensor, factor: torch.Tensor, s: torch.Tensor, ternary: bool
) -> torch.Tensor:
    """See `columns.round_group`."""
    sums, codes = passed.clone(), torch.empty_like(w)
    for j in range(w.shape[1]):
        x = (w[:, j] + sums[:, j] / factor[j, j]) / s
        t = (x > 0.5).float() - (x < -0.5).float() if ternary else torch.where(x >= 0, 1.0, -1.0)
        codes[:, j] = t
        sums[:, j:].addr_(w[:, j] - s * t, factor[j, j:])
    return codes.to(torch.int8)


def descend_group(
    b: torch.Tensor, v: torch.Tensor, h: torch.Tensor, s: torch.Tensor, codes: torch.Tensor,
    ternary: bool, top: float, tenure: int, most: int, patience: int,
) -> None:  # fmt: skip
    """See `columns.descend_group`."""
    far, t, every = 1.0 if ternary else 2.0, codes.float(), torch.arange(len(b), device=b.device)
    p, q = ((t.double() * x).sum(1) for x in (b, v))
    before = s * (s * q - 2 * p)
    until, idle = torch.zeros_like(codes, dtype=torch.int64), torch.zeros_like(s)
    brought, most_brought = torch.zeros_like(p), torch.zeros_like(p)
    best, going = [t.clone(), p.clone(), q.clone()], torch.ones_like(s, dtype=torch.bool)
    for step in range(most):
        gain, e = _gains(b, v, t, p, q, far, h.diagonal())
        gain, at = gain.masked_fill(until > step, -torch.inf).max(1)
        going = going & ((gain > 0) | (idle < patience))
        if not going.any():
            break
        e = e[every, at] * going
        brought += torch.where(going, gain, 0.0)
        p = p + e.double() * b[every, at]
        q = q + e.double() * (2 * v[every, at].double() + e * h.diagonal()[at])
        t[every, at] += e
        until[every, at] = step + tenure
        v += e[:, None] * h[at]
        better = going & (brought > most_brought)
        most_brought = torch.where(better, brought, most_brought)
        idle = torch.where(better, 0.0, idle + 1)
        going = going & (idle <= patience)
        for kept, now in zip(best, (t, p, q), strict=True):
            kept[better] = now[better]
    t, p, q = best
    found = (p / q).nan_to_num(0.0, top, 0.0).clamp(SMALLEST, top).bfloat16().float()
    lower = found * (found * q - 2 * p) < before
    s.copy_(torch.where(lower, found, s))
    codes.copy_(torch.where(lower[:, None], t.to(codes.dtype), codes))


def _gains(
    b: torch.Tensor, v: torch.Tensor, t: torch.Tensor, p: torch.Tensor, q: torch.Tensor,
    far: float, diagonal: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """What changing each code would add to p^2 / q, and by how much it would be changed."""
    best_scale = torch.where(q > 0, p / q, 0.0)
    s, energy, p, q = (x.float()[:, None] for x in (best_scale, p * best_scale, p, q))
    r = b - s * v
    e = torch.where(t == 0, torch.where(r > 0, 1.0, -1.0), -far * t)
    more = b * b - energy * diagonal
    after = q + e * (2 * v + e * diagonal)
    gain = e * (2 * p * r + e * more) / after
    return gain.masked_fill(after <= 1e-6 * diagonal, -torch.inf), e
