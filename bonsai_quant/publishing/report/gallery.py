"""The same prompts painted with the source and with every pack, and how alike the pictures are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bonsai_quant.core.errors import BonsaiError
from bonsai_quant.core.progress import Progress
from bonsai_quant.core.requirements import LOOK, RUN, missing
from bonsai_quant.evaluation.judging import judge, shrink
from bonsai_quant.packs.pipeline import Pipeline, locate
from bonsai_quant.runners import open_runner
from bonsai_quant.runners.runner import paint
from bonsai_quant.verification.levels.images import psnr

from .ask import ask
from .likeness import no_ssim, ssim
from .records import Asked, SideBySide


def paint_all(
    packs: Sequence[str],
    called: Sequence[str],
    against: str | None,
    pipeline: str | None,
    prompts: Sequence[str],
    seed: int,
    size: str | None,
    progress: Progress,
) -> SideBySide | str:
    """Pictures of every model, or why it cannot be done here. What is asked for must be legal.

    called: the names of the packs, then of the source.
    """
    if problem := missing((*RUN, *LOOK)):
        return problem
    names = [*([against] if against else []), *packs]
    try:
        models = [locate(name, pipeline=pipeline, spare=against) for name in names]
    except BonsaiError as e:
        return str(e)
    asked = ask(models[0], prompts, seed, size)
    try:
        pictures = np.stack([_paint(m, asked, progress) for m in models])
    except BonsaiError as e:
        return str(e)
    labels = [*called[len(packs) :], *called[: len(packs)]]
    return compare(tuple(labels), asked, pictures, against is not None)


def compare(
    labels: tuple[str, ...], asked: Asked, pictures: NDArray[np.uint8], against: bool
) -> SideBySide:
    """Pictures [models, prompts, h, w, 3] with what is measured of them. against: with a source."""
    reason = no_ssim(pictures.shape[2:4])
    others = pictures[1:] if against else pictures[:0]
    return SideBySide(
        labels,
        asked,
        pictures,
        tuple(tuple(psnr(a, b) for a, b in zip(p, pictures[0], strict=True)) for p in others),
        () if reason else tuple(tuple(ssim(p, pictures[0])) for p in others),
        reason,
        _failures(asked, pictures),
    )


def _paint(model: Pipeline, asked: Asked, progress: Progress) -> NDArray[np.uint8]:
    runner = open_runner(model, "torch")
    return paint(runner, asked.prompts, asked.seeds, asked.settings, progress=progress).pictures


def _failures(asked: Asked, pictures: NDArray[np.uint8]) -> tuple[tuple[str, ...], ...] | None:
    if asked.scenes is None:
        return None
    world = asked.scenes.world
    return tuple(
        tuple(
            str(f)
            for f in judge(
                shrink(model, world.pixels)[:, None], asked.scenes.prompts, world
            ).failures[:, 0]
        )
        for model in pictures
    )


def side_by_side(gallery: SideBySide) -> NDArray[np.uint8]:
    """One picture of all: a row for each prompt, a column for each model."""
    return np.concatenate(
        [np.concatenate(list(row), axis=1) for row in gallery.pictures.swapaxes(0, 1)]
    )
