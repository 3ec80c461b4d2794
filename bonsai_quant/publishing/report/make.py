"""A report on packs: one page that needs nothing else, the same as JSON, every layer as CSV, the
pictures as one PNG, and a card for links."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bonsai_quant.core.errors import BadInput, OutputExists
from bonsai_quant.core.progress import Progress, no_progress
from bonsai_quant.core.requirements import LOOK, missing
from bonsai_quant.packs.find import require_packs
from bonsai_quant.packs.inspect import inspect
from bonsai_quant.packs.manifest import GALLERY
from bonsai_quant.packs.read import Pack, open_pack
from bonsai_quant.packs.rebuild import rebuild
from bonsai_quant.runners.png import encode_png
from bonsai_quant.storage.small_file import make_folder, write_file
from bonsai_quant.verification.verify import verify

from .data import as_csv, as_json
from .gallery import paint_all, side_by_side
from .machine import describe_machine, now
from .names import short_names
from .page import render
from .records import PackReport, Report, SideBySide
from .scores import find_score, read_score_file
from .share_card import draw_card
from .survey import survey

PAGE, DATA, TABLE, CARD = "report.html", "report.json", "layers.csv", "share.png"
SAYS = {
    DATA: "everything on this page, for programs",
    TABLE: "every layer of every pack",
    GALLERY: "all pictures, exactly: a row for each prompt, a column for each model",
    CARD: "the picture that goes with a link to this page",
}


def report(
    packs: str | Path | Sequence[str | Path],
    *,
    out: str | Path,
    against: str | None = None,
    pipeline: str | None = None,
    level: str = "codes",
    prompts: Sequence[str] = (),
    seed: int = 0,
    size: str | None = None,
    scores: Sequence[str | Path] = (),
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Report:
    """Survey and verify packs, paint with them, and write a page, its data, and the pictures.

    packs: one folder or several, say the ternary and the binary pack of one source.
    against: that source, for `verify` and for the pictures.  out: a folder.  level: of `verify`.
    prompts: to paint [captions of the benchmark, or general prompts].  seed: of the first picture.
    size: WIDTHxHEIGHT [the pipeline's].  scores: files that `score --json` wrote of the packs.
    A failed check does not stop it: it is on the page, and `Report.failed` names it.
    """
    paths = [packs] if isinstance(packs, str | Path) else list(packs)
    folder = Path(out)
    for name in (PAGE, DATA, TABLE, GALLERY, CARD):
        if (folder / name).exists() and not overwrite:
            raise OutputExists("exists already", where=(folder, name), hint="pass --overwrite")
    for path in scores:
        read_score_file(Path(path))
    places = [str(p) for p in paths]
    names = short_names([*places, *([against] if against else [])])
    reports = tuple(
        _look_at(Path(p), name, against, pipeline, level, scores, progress)
        for p, name in zip(places, names, strict=False)
    )
    _check_scores(reports, scores)
    gallery = paint_all(places, names, against, pipeline, prompts, seed, size, progress)
    result = Report(reports, against, gallery, folder, now(), describe_machine())
    make_folder(folder)
    for name, content in _contents(result).items():
        write_file(folder / name, content, overwrite=overwrite)
    return result


def _contents(result: Report) -> dict[str, bytes]:
    """Every file; the page comes last, when what it links to is there."""
    contents = {TABLE: as_csv(result), DATA: as_json(result)}
    if isinstance(result.gallery, SideBySide):
        contents[GALLERY] = encode_png(side_by_side(result.gallery))
    if not missing(LOOK):
        contents[CARD] = draw_card(result)
    page = render(result, [(name, SAYS[name]) for name in SAYS if name in contents])
    return contents | {PAGE: page.encode()}


def _look_at(
    path: Path,
    name: str,
    against: str | None,
    pipeline: str | None,
    level: str,
    scores: Sequence[str | Path],
    progress: Progress,
) -> PackReport:
    folders = require_packs(path)
    verdict = verify(path, level=level, against=against, pipeline=pipeline, progress=progress)
    opened = [open_pack(f) for f in folders]
    first = opened[0]
    facts = next(iter(inspect(first.folder))).facts
    return PackReport(
        name, first.info.mode, facts, tuple(_size(p) for p in opened),
        2 * sum(t.size for t in first.info.tensors), survey(first, progress), verdict,
        first.manifest, rebuild(first.manifest, against),
        find_score(first.folder, first.manifest, scores),
    )  # fmt: skip


def _size(pack: Pack) -> tuple[str, int, int]:
    data = sum(t.spec.nbytes for t in pack.stored.values())
    return pack.format.name, pack.path.stat().st_size, data


def _check_scores(reports: Sequence[PackReport], files: Sequence[str | Path]) -> None:
    """Refuse a score that is of none of the packs: it would be missed on the page."""
    shown: list[dict[str, Any]] = [r.score for r in reports if r.score]
    for path in files:
        if read_score_file(Path(path)) not in shown:
            raise BadInput(
                "is about none of these packs", where=str(path), hint="score one of them"
            )
