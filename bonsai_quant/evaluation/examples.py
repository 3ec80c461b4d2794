"""A picture with examples of what models painted, beside the captions."""

from __future__ import annotations

from pathlib import Path

from bonsai_quant.evaluation.scenes.world import CATEGORIES

from .contact_sheet import Cell, Row, draw_grid
from .gallery import Gallery
from .judging import N_SHOWN


def examples(galleries: list[Gallery], prompts: int = N_SHOWN, images: int = N_SHOWN) -> bytes:
    """A PNG: the first prompts of every category, with the first pictures of every gallery."""
    task = galleries[0].task
    prompts, images = min(prompts, N_SHOWN), min(images, N_SHOWN, task.images)
    heads = [h for g in galleries for h in (Path(g.name).name, *[""] * (images - 1))]
    chosen = [
        c * task.per_category + i
        for c in range(len(CATEGORIES))
        for i in range(min(prompts, task.per_category))
    ]
    return draw_grid(heads, [_row(galleries, n, images) for n in chosen])


def _row(galleries: list[Gallery], n: int, images: int) -> Row:
    cells = tuple(
        Cell(g.shown[n, k], bool(g.marks.passed[n, k])) for g in galleries for k in range(images)
    )
    return Row(galleries[0].task.prompts[n].text, cells)
