"""A report on packs: one page that needs nothing else, the same as JSON, every layer as CSV, and
the pictures as one PNG."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bonsai_quant.core.errors import BonsaiError, OutputExists
from bonsai_quant.core.progress import Progress, no_progress
from bonsai_quant.core.requirements import LOOK, RUN, missing
from bonsai_quant.core.schema import SCHEMA_VERSION, to_json
from bonsai_quant.core.version import TOOL, __version__
from bonsai_quant.packs.find import require_packs
from bonsai_quant.packs.inspect import inspect
from bonsai_quant.packs.manifest import GALLERY
from bonsai_quant.packs.pipeline import locate
from bonsai_quant.packs.read import Pack, open_pack
from bonsai_quant.packs.rebuild import rebuild
from bonsai_quant.runners import open_runner
from bonsai_quant.runners.png import encode_png
from bonsai_quant.runners.runner import paint
from bonsai_quant.storage.small_file import make_folder, write_file
from bonsai_quant.verification.levels.images import psnr
from bonsai_quant.verification.levels.pictures import PROMPTS, SEEDS, settings_of
from bonsai_quant.verification.verify import verify

from .page import render
from .records import PackReport, Report, SideBySide
from .survey import survey

PAGE, DATA, TABLE = "report.html", "report.json", "layers.csv"


def report(
    packs: str | Path | Sequence[str | Path],
    *,
    out: str | Path,
    against: str | None = None,
    pipeline: str | None = None,
    level: str = "codes",
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Report:
    """Survey and verify packs, paint with them, and write a page, its data, and the pictures.

    packs: one folder or several, say the ternary and the binary pack of one source.
    against: that source, for `verify` and for the pictures.  out: a folder.
    level: of `verify`.  progress: of what is read.
    """
    paths = [packs] if isinstance(packs, str | Path) else list(packs)
    folder = Path(out)
    for name in (PAGE, DATA, TABLE, GALLERY):
        if (folder / name).exists() and not overwrite:
            raise OutputExists("exists already", where=(folder, name), hint="pass --overwrite")
    reports = tuple(_look_at(Path(p), against, pipeline, level, progress) for p in paths)
    gallery = _paint([str(p) for p in paths], against, pipeline)
    result = Report(reports, against, gallery, folder)
    data = json.dumps(as_data(result), indent=2, sort_keys=True).encode() + b"\n"
    contents = {TABLE: as_csv(result), DATA: data, PAGE: render(result).encode()}
    if isinstance(gallery, SideBySide):
        contents[GALLERY] = encode_png(side_by_side(gallery))
    make_folder(folder)
    for name, content in contents.items():
        write_file(folder / name, content, overwrite=overwrite)
    return result


def _look_at(
    path: Path, against: str | None, pipeline: str | None, level: str, progress: Progress
) -> PackReport:
    folders = require_packs(path)
    verdict = verify(path, level=level, against=against, pipeline=pipeline, progress=progress)
    opened = [open_pack(f) for f in folders]
    first = opened[0]
    facts = next(iter(inspect(first.folder))).facts
    return PackReport(
        path.name, first.info.mode, facts, tuple(_size(p) for p in opened),
        survey(first, progress), verdict, first.manifest, rebuild(first.manifest, against),
    )  # fmt: skip


def _size(pack: Pack) -> tuple[str, int, int]:
    data = sum(t.spec.nbytes for t in pack.stored.values())
    return pack.format.name, pack.path.stat().st_size, data


def _paint(paths: Sequence[str], against: str | None, pipeline: str | None) -> SideBySide | str:
    """The same prompts and seeds with the source and every pack; or why it cannot be done here."""
    if problem := missing((*RUN, *LOOK)):
        return problem
    names = [*([against] if against else []), *paths]
    pictures = []
    try:
        for name in names:
            located = locate(name, pipeline=pipeline, spare=against)
            pictures.append(
                paint(open_runner(located, "torch"), PROMPTS, SEEDS, settings_of(located)).pictures
            )
    except BonsaiError as e:
        return str(e)
    decibels = [
        tuple(psnr(a, b) for a, b in zip(p, pictures[0], strict=True))
        for p in (pictures[1:] if against else ())
    ]
    labels = [Path(n).name or n for n in names]
    return SideBySide(tuple(labels), PROMPTS, np.stack(pictures), tuple(decibels))


def side_by_side(gallery: SideBySide) -> NDArray[np.uint8]:
    """One picture of all: a row for each prompt, a column for each model."""
    return np.concatenate(
        [np.concatenate(list(row), axis=1) for row in gallery.pictures.swapaxes(0, 1)]
    )


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


def as_data(report: Report) -> dict[str, Any]:
    """The report without its pictures, as plain JSON."""
    gallery: dict[str, Any] = {"not_painted": report.gallery}
    if isinstance(report.gallery, SideBySide):
        gallery = {"models": list(report.gallery.models), "prompts": list(report.gallery.prompts),
                   "decibels_to_source": [list(d) for d in report.gallery.decibels]}  # fmt: skip
    return {
        "schema_version": SCHEMA_VERSION,
        "made_by": f"{TOOL} {__version__}",
        "source": report.source,
        "packs": [_pack_data(p) for p in report.packs],
        "gallery": gallery,
    }


def _pack_data(pack: PackReport) -> dict[str, Any]:
    sizes = [{"format": f, "weight_file": n, "tensor_data": d} for f, n, d in pack.sizes]
    return {
        "name": pack.name, "mode": pack.mode, "facts": dict(pack.facts), "sizes": sizes,
        "rebuild": pack.rebuild, "survey": to_json(pack.survey), "verify": to_json(pack.verdict),
        "manifest": pack.manifest.model_dump(mode="json") if pack.manifest else None,
    }  # fmt: skip
