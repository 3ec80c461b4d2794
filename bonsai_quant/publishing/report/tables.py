"""The tables of a page: sizes by format, the error of each layer, zeros, the score."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from bonsai_quant.core import numbers
from bonsai_quant.packs.whitepaper import transformer_size

from .records import PackReport
from .scores import rows

BLOCK = re.compile(r"^(single_)?transformer_blocks\.(\d+)\.(.+)$")
SHADES = 10
"""Steps of colour between the least and the largest error."""
LEAST_RANGE = 0.1
"""The colours never stand for a smaller range of errors: without this floor, layers that are all
but equal would get the colours of the best and the worst."""


def sizes(pack: PackReport) -> list[dict[str, str]]:
    """A row for each format."""
    base = dict(pack.facts).get("base", "")
    published = {name: transformer_size(base, pack.mode, name) for name, _, _ in pack.sizes}
    return [
        {"format": name, "file": numbers.size(size), "data": numbers.size(data),
         "whitepaper": f"{published[name]:g} GB" if published[name] else ""}
        for name, size, data in pack.sizes
    ]  # fmt: skip


def errors(pack: PackReport) -> dict[str, float]:
    """The error of each layer that was measured, by name, in the order of the network."""
    found = {s.name: s.relative_error for s in pack.survey.layers if s.relative_error is not None}
    return dict(sorted(found.items(), key=lambda layer: _place(layer[0])))


def _place(name: str) -> tuple[int, int, str]:
    """Where a layer stands: what is before the blocks, double blocks, single blocks."""
    match = BLOCK.match(name)
    return (2 if match[1] else 1, int(match[2]), match[3]) if match else (0, 0, name)


def heat(pack: PackReport) -> dict[str, Any] | None:
    """A table for each kind of block: rows are blocks, columns are layers, cells are errors."""
    measured = errors(pack)
    if not measured:
        return None
    low, high = colour_range(measured.values())
    tables = []
    for title, single in (("Double blocks", False), ("Single blocks", True)):
        cells: dict[tuple[int, str], float] = {}
        for name, error in measured.items():
            match = BLOCK.match(name)
            if match and bool(match[1]) == single:
                cells[int(match[2]), match[3]] = error
        columns = list(dict.fromkeys(layer for _, layer in cells))
        lines = [
            {"block": b, "cells": [_cell(cells.get((b, c)), low, high) for c in columns]}
            for b in sorted({block for block, _ in cells})
        ]
        if lines:
            tables.append({"title": title, "columns": columns, "rows": lines})
    return {"tables": tables, "low": f"{low:.3f}", "high": f"{high:.3f}",
            "shades": range(SHADES + 1), "lossless": not any(measured.values())}  # fmt: skip


def colour_range(values: Any) -> tuple[float, float]:
    """The errors that have the palest and the strongest colour."""
    low, high = min(values), max(values)
    return low, max(high, low + LEAST_RANGE)


def _cell(error: float | None, low: float, high: float) -> dict[str, Any] | None:
    if error is None:
        return None
    return {"text": f"{error:.3f}", "shade": round(SHADES * (error - low) / (high - low))}


def zeros(pack: PackReport) -> dict[str, str] | None:
    """Shares of codes that are zero; None in binary, which has none."""
    shares = [s.zero_share for s in pack.survey.layers if s.zero_share is not None]
    if not shares:
        return None
    low, middle, high = np.quantile(shares, [0, 0.5, 1])
    return {
        "low": numbers.percent(low),
        "middle": numbers.percent(middle),
        "high": numbers.percent(high),
    }


def score(pack: PackReport) -> dict[str, Any] | None:
    """The table of a recorded score, and how it was measured."""
    if pack.score is None:
        return None
    task = pack.score["settings"]
    images = int(task["images_per_prompt"])
    pictures = f"{images} picture{'s' if images > 1 else ''}"
    return {
        "rows": rows(pack.score),
        "against": pack.score.get("against") or "",
        "format": pack.score.get("format") or "",
        "about": (
            f"{task['split']} captions, {task['prompts_per_category']} of each category, "
            f"{pictures} of each, {task['width']} x {task['height']} "
            f"pixels, {task['num_inference_steps']} steps, seed {task['seed']}"
        ),
    }
