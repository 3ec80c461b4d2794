"""report.html: everything inside one file, readable on a phone, in light and in dark."""

from __future__ import annotations

import base64
import json
import re
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bonsai_quant.core import numbers
from bonsai_quant.core.version import TOOL, __version__
from bonsai_quant.packs.whitepaper import transformer_size
from bonsai_quant.runners.png import encode_png

from .survey import PER_OCTAVE

if TYPE_CHECKING:
    from .records import PackReport, Report, SideBySide
BLOCK = re.compile(r"^(single_)?transformer_blocks\.(\d+)\.(.+)$")
WIDE, TALL = 360, 90
"""A histogram's width and greatest height, in units of the drawing."""


def render(report: Report) -> str:
    """The page as HTML; every text that is not ours is escaped."""
    from jinja2 import Environment

    page = files("bonsai_quant.publishing.report").joinpath("page.html").read_text("utf-8")
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(page)
    gallery = report.gallery
    return template.render(
        made_by=f"{TOOL} {__version__}",
        source=report.source,
        packs=[_pack(p) for p in report.packs],
        gallery=None if isinstance(gallery, str) else _gallery(gallery),
        no_gallery=gallery if isinstance(gallery, str) else "",
    )


def _pack(pack: PackReport) -> dict[str, Any]:
    checks = pack.verdict.checks
    counts = {s: sum(c.status == s for c in checks) for s in ("passed", "failed", "not run")}
    manifest = pack.manifest
    return {
        "name": pack.name, "mode": pack.mode, "facts": pack.facts,
        "sizes": _sizes(pack), "heat": _heat(pack), "histogram": _histogram(pack),
        "zeros": _zeros(pack), "checks": checks, "counts": counts, "rebuild": pack.rebuild,
        "files": manifest.source.files if manifest else [],
        "recipe": json.dumps(manifest.recipe, indent=2, sort_keys=True) if manifest else "",
    }  # fmt: skip


def _sizes(pack: PackReport) -> list[dict[str, str]]:
    base = dict(pack.facts).get("base", "")
    published = {name: transformer_size(base, pack.mode, name) for name, _, _ in pack.sizes}
    return [
        {"format": name, "file": numbers.size(size), "data": numbers.size(data),
         "whitepaper": f"{published[name]:g} GB" if published[name] else ""}
        for name, size, data in pack.sizes
    ]  # fmt: skip


def _heat(pack: PackReport) -> list[dict[str, Any]]:
    """A table for each kind of block: rows are blocks, columns are layers, cells are errors."""
    errors = {s.name: s.relative_error for s in pack.survey.layers if s.relative_error is not None}
    if not errors:
        return []
    low, high = min(errors.values()), max(errors.values())
    tables = []
    for title, single in (("Double blocks", False), ("Single blocks", True)):
        cells: dict[tuple[int, str], float] = {}
        for name, error in errors.items():
            match = BLOCK.match(name)
            if match and bool(match[1]) == single:
                cells[int(match[2]), match[3]] = error
        columns = list(dict.fromkeys(layer for _, layer in cells))
        rows = [
            {"block": b, "cells": [_cell(cells.get((b, c)), low, high) for c in columns]}
            for b in sorted({block for block, _ in cells})
        ]
        if rows:
            tables.append({"title": title, "columns": columns, "rows": rows})
    return tables


def _cell(error: float | None, low: float, high: float) -> dict[str, str] | None:
    if error is None:
        return None
    share = (error - low) / (high - low) if high > low else 0.0
    return {"text": f"{error:.3f}", "heat": f"{100 * share:.0f}%"}


def _histogram(pack: PackReport) -> dict[str, Any] | None:
    bins = pack.survey.bins
    if not bins:
        return None
    most, step = max(n for _, n in bins), WIDE / len(bins)
    bars = [
        {"x": f"{i * step:.1f}", "y": f"{TALL - TALL * n / most:.1f}", "width": f"{step - 1:.1f}",
         "height": f"{TALL * n / most:.1f}", "says": f"{low:.4g}: {n:,}"}
        for i, (low, n) in enumerate(bins)
    ]  # fmt: skip
    ends = (bins[0][0], bins[-1][0] * 2 ** (1 / PER_OCTAVE))
    return {"bars": bars, "low": f"{ends[0]:.3g}", "high": f"{ends[1]:.3g}",
            "groups": f"{sum(n for _, n in bins):,}"}  # fmt: skip


def _zeros(pack: PackReport) -> dict[str, str] | None:
    shares = [s.zero_share for s in pack.survey.layers if s.zero_share is not None]
    if not shares:
        return None
    low, middle, high = np.quantile(shares, [0, 0.5, 1])
    return {"low": f"{low:.1%}", "middle": f"{middle:.1%}", "high": f"{high:.1%}"}


def _gallery(gallery: SideBySide) -> dict[str, Any]:
    rows = []
    first = len(gallery.models) - len(gallery.decibels)
    for j, prompt in enumerate(gallery.prompts):
        cells = []
        for i, model in enumerate(gallery.models):
            near = f"{gallery.decibels[i - first][j]:.1f} dB" if i >= first else ""
            cells.append({"src": _data_url(gallery.pictures[i, j]), "model": model, "near": near})
        rows.append({"prompt": prompt, "cells": cells})
    return {"models": gallery.models, "rows": rows, "small": gallery.pictures.shape[2] < 200}


def _data_url(pixels: NDArray[np.uint8]) -> str:
    return "data:image/png;base64," + base64.b64encode(encode_png(pixels)).decode()
