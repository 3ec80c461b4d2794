"""report.json and layers.csv: what is on the page, for programs."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict
from typing import Any

from bonsai_quant.core.schema import SCHEMA_VERSION, to_json
from bonsai_quant.core.version import TOOL, __version__

from .records import PackReport, Report, SideBySide


def as_csv(report: Report) -> bytes:
    """Every packed layer of every pack, one a line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["pack", "mode", "layer", "out", "in", "relative_error", "zero_share",
                     "scale_median", "scale_min", "scale_max"])  # fmt: skip
    for pack in report.packs:
        for s in pack.survey.layers:
            numbers = (s.relative_error, s.zero_share, s.scale_median, s.scale_min, s.scale_max)
            cells = ["" if n is None else f"{n:.9g}" for n in numbers]
            writer.writerow([pack.name, pack.mode, s.name, *s.shape, *cells])
    return text.getvalue().encode()


def as_json(report: Report) -> bytes:
    """`as_data`, written out."""
    return json.dumps(as_data(report), indent=2, sort_keys=True).encode() + b"\n"


def as_data(report: Report) -> dict[str, Any]:
    """The report without its pictures, as plain JSON."""
    gallery = report.gallery
    return {
        "schema_version": SCHEMA_VERSION,
        "made_by": f"{TOOL} {__version__}",
        "date": report.date,
        "machine": report.machine,
        "source": report.source,
        "failed": bool(report.failed),
        "packs": [_pack_data(p) for p in report.packs],
        "gallery": {"not_painted": gallery} if isinstance(gallery, str) else _gallery(gallery),
    }


def _gallery(gallery: SideBySide) -> dict[str, Any]:
    return {
        "models": list(gallery.models),
        "prompts": list(gallery.prompts),
        "seeds": list(gallery.asked.seeds),
        "settings": asdict(gallery.asked.settings),
        "rule": gallery.asked.rule,
        "decibels_to_source": [list(d) for d in gallery.decibels],
        "ssim_to_source": [list(s) for s in gallery.ssim],
        "ssim_not_measured": gallery.no_ssim,
        "failures": [list(f) for f in gallery.failures] if gallery.failures else None,
    }


def _pack_data(pack: PackReport) -> dict[str, Any]:
    sizes = [{"format": f, "weight_file": n, "tensor_data": d} for f, n, d in pack.sizes]
    return {
        "name": pack.name, "mode": pack.mode, "facts": dict(pack.facts), "sizes": sizes,
        "bytes_in_16_bits": pack.bytes_16, "rebuild": pack.rebuild, "score": pack.score,
        "survey": to_json(pack.survey), "verify": to_json(pack.verdict),
        "manifest": pack.manifest.model_dump(mode="json") if pack.manifest else None,
    }  # fmt: skip
