"""report.html: everything inside one file, for a phone and a wide screen, light and dark."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from bonsai_quant.core.requirements import CHARTS, install_anywhere, missing
from bonsai_quant.core.version import TOOL, __version__

from . import charts, tables
from .embed import SMALL, picture_url
from .names import short_names
from .records import PackReport, Report, SideBySide
from .tiles import cards, counted

TEMPLATE = "page.html.j2"
PIXELATED = 200
"""Pixels of a side below which a picture is shown with its pixels."""


def render(report: Report, downloads: Sequence[tuple[str, str]]) -> str:
    """The page as HTML; every text that is not ours is escaped.

    downloads: files that lie beside the page, and what is in them.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    style, script = _part("page.css"), _part("page.js")
    gallery, reason = report.gallery, missing(CHARTS)
    return environment.from_string(_part(TEMPLATE)).render(
        style=style, script=script, style_hash=_digest(style), script_hash=_digest(script),
        made_by=f"{TOOL} {__version__}", date=report.date, machine=report.machine,
        title=_title(report), cards=cards(report),
        source=report.source and short_names([report.source])[0],
        packs=[_pack(p, draws=not reason) for p in report.packs],
        gallery=None if isinstance(gallery, str) else _gallery(gallery),
        no_gallery=gallery if isinstance(gallery, str) else "",
        errors=None if reason else charts.error_chart(report.packs),
        scores=None if reason else charts.score_chart(report.packs),
        no_charts=f"{reason}; {install_anywhere('run')}" if reason else "",
        failed=report.failed, downloads=downloads,
        share=any(name == "share.png" for name, _ in downloads),
    )  # fmt: skip


def _title(report: Report) -> str:
    return ", ".join(dict.fromkeys(p.name for p in report.packs))


def _part(name: str) -> str:
    return files("bonsai_quant.publishing.report").joinpath("template", name).read_text("utf-8")


def _digest(text: str) -> str:
    """What a Content-Security-Policy knows an inline style or script by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _pack(pack: PackReport, *, draws: bool) -> dict[str, Any]:
    manifest = pack.manifest
    return {
        "name": pack.name, "mode": pack.mode, "facts": pack.facts, "sizes": tables.sizes(pack),
        "heat": tables.heat(pack), "scales": charts.scale_chart(pack) if draws else None,
        "groups": f"{sum(n for _, n in pack.survey.bins):,}", "zeros": tables.zeros(pack),
        "checks": pack.verdict.checks, "counts": counted(pack), "rebuild": pack.rebuild,
        "score": tables.score(pack), "files": manifest.source.files if manifest else [],
        "recipe": json.dumps(manifest.recipe, indent=2, sort_keys=True) if manifest else "",
    }  # fmt: skip


def _gallery(gallery: SideBySide) -> dict[str, Any]:
    rows = [
        {"prompt": prompt, "seed": gallery.asked.seeds[j],
         "cells": [_cell(gallery, i, j) for i in range(len(gallery.models))]}
        for j, prompt in enumerate(gallery.prompts)
    ]  # fmt: skip
    settings, side = gallery.asked.settings, max(gallery.pictures.shape[2:4])
    return {
        "models": gallery.models, "rows": rows, "rule": gallery.asked.rule,
        "size": f"{settings.width} x {settings.height}", "steps": settings.num_inference_steps,
        "pixelated": side < PIXELATED, "exact": side <= SMALL,
        "judged": gallery.failures is not None, "compared": bool(gallery.decibels),
        "ssim": bool(gallery.ssim), "no_ssim": gallery.no_ssim, "columns": len(gallery.models),
    }  # fmt: skip


def _cell(gallery: SideBySide, i: int, j: int) -> dict[str, Any]:
    pack = i - gallery.index(0)
    measured = []
    if gallery.decibels and pack >= 0:
        measured.append(f"{gallery.decibels[pack][j]:.1f} dB")
        measured += [f"SSIM {gallery.ssim[pack][j]:.3f}"] if gallery.ssim else []
    verdict = None
    if gallery.failures is not None:
        failure = gallery.failures[i][j]
        verdict = {"right": not failure, "says": f"wrong {failure}" if failure else "as asked"}
        if failure == "nothing":
            verdict["says"] = "shows nothing"
    return {"src": picture_url(gallery.pictures[i, j]), "model": gallery.models[i],
            "measured": measured, "verdict": verdict}  # fmt: skip
