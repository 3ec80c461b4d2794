"""The figures at the top of a page: one card for each pack, and nothing that was not measured."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from bonsai_quant.core import numbers

from .records import PackReport, Report, SideBySide
from .scores import rows

NOT_MEASURED = "not measured"


def cards(report: Report) -> list[dict[str, Any]]:
    """For each pack its name, mode, and figures as (what, figure, what it means)."""
    return [_card(report, i, pack) for i, pack in enumerate(report.packs)]


def _card(report: Report, i: int, pack: PackReport) -> dict[str, Any]:
    name, size = pack.smallest
    counts = counted(pack)
    gallery = report.gallery if isinstance(report.gallery, SideBySide) else None
    ran = counts["passed"] + counts["failed"]
    figures = [
        ("Checks passed", f"{counts['passed']} of {ran}", _checks(counts)),
        ("Score", *_score(pack)),
    ]
    if gallery and gallery.failures is not None:
        n = gallery.right(gallery.index(i))
        figures.append(("Pictures as asked", f"{n} of {len(gallery.prompts)}", _source(gallery)))
    figures += _likeness(gallery, i)
    return {
        "name": pack.name, "mode": pack.mode, "failed": bool(pack.failed),
        "before": numbers.size(pack.bytes_16), "after": numbers.size(size), "format": name,
        "times": f"{pack.bytes_16 / size:.1f}", "share": f"{100 * size / pack.bytes_16:.1f}",
        "figures": [{"what": w, "figure": f, "note": note} for w, f, note in figures],
    }  # fmt: skip


def counted(pack: PackReport) -> dict[str, int]:
    """How many checks ended in each way."""
    return {s: sum(c.status == s for c in pack.verdict.checks)
            for s in ("passed", "failed", "not run")}  # fmt: skip


def _checks(counts: dict[str, int]) -> str:
    failed = f"{counts['failed']} failed" if counts["failed"] else ""
    waiting = f"{counts['not run']} not run" if counts["not run"] else ""
    return ", ".join(p for p in (failed, waiting) if p) or "none failed"


def _score(pack: PackReport) -> tuple[str, str]:
    if pack.score is None:
        return NOT_MEASURED, "no score of this pack was given"
    _, _, own, _, kept = rows(pack.score)[0]
    value, _, interval = (kept or own).partition(" (")
    about = "of the source's score is kept" if kept else "of the pictures show the caption"
    return value, f"{about}, {interval.rstrip(')')}" if interval else about


def _source(gallery: SideBySide) -> str:
    if not gallery.decibels:
        return "by the checker"
    return f"the source: {gallery.right(0)} of {len(gallery.prompts)}"


def _likeness(gallery: SideBySide | None, i: int) -> list[tuple[str, str, str]]:
    if gallery is None or not gallery.decibels:
        why = "no pictures" if gallery is None else "no source to compare with"
        return [("PSNR", NOT_MEASURED, why)]
    decibels, mean = gallery.decibels[i], f"mean of {len(gallery.prompts)} pictures"
    found = [("PSNR", f"{fmean(decibels):.1f} dB", mean)]
    if gallery.ssim:
        return [*found, ("SSIM", f"{fmean(gallery.ssim[i]):.3f}", mean)]
    return [*found, ("SSIM", NOT_MEASURED, gallery.no_ssim)]
