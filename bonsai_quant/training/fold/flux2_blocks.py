"""Which layers of a FLUX.2 block the moves apply to."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .transforms import mix_heads, rms, scale_hidden, sort_hidden

Weights = dict[str, np.ndarray]
Spread = Callable[[str], np.ndarray]
"""Root mean square of the inputs of a layer of the block, by the layer's name in it."""

MOVES = ("heads", "scale", "sort")
"""heads: values and what reads them.  scale, sort: the hidden channels of the MLPs."""


def fold_double(w: Weights, spread: Spread, moves: tuple[str, ...]) -> Weights:
    """A double block's layers by their names in it -> those that change."""
    new: Weights = {}
    if "heads" in moves:
        values, outs = ("attn.to_v", "attn.add_v_proj"), ("attn.to_out.0", "attn.to_add_out")
        both = np.sqrt(np.mean([np.square(spread(o)) for o in outs], 0))
        mixed = mix_heads([w[v] for v in values], [w[o] for o in outs], both)
        new |= dict(zip((*values, *outs), (*mixed[0], *mixed[1]), strict=True))
    for stream in ("ff", "ff_context"):
        names = (f"{stream}.linear_in", f"{stream}.linear_out")
        made_in, made_out = _mlp(w[names[0]], w[names[1]], spread(names[1]), moves)
        new |= dict(zip(names, (made_in, made_out), strict=True))
    return new


def fold_single(w: Weights, spread: Spread, moves: tuple[str, ...]) -> Weights:
    """A single block's: attention and MLP share their first and their last layer."""
    first, last = w["attn.to_qkv_mlp_proj"].copy(), w["attn.to_out"].copy()
    width = last.shape[0]
    inputs = spread("attn.to_out")
    if "heads" in moves:
        rows = slice(2 * width, 3 * width)
        values, outs = mix_heads([first[rows]], [last[:, :width]], inputs[:width])
        first[rows], last[:, :width] = values[0], outs[0]
    first[3 * width :], last[:, width:] = _mlp(
        first[3 * width :], last[:, width:], inputs[width:], moves
    )
    return {"attn.to_qkv_mlp_proj": first, "attn.to_out": last}


def _mlp(
    both: np.ndarray, down: np.ndarray, spread: np.ndarray, moves: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """both: [2 * hidden, in], gate before up; down: [out, hidden]."""
    gate, up = np.split(both, 2)
    if "scale" in moves:
        up, down = scale_hidden(up, down, spread)
    if "sort" in moves:
        gate, up, down = sort_hidden(gate, up, down, rms(down))
    return np.concatenate([gate, up]), down
