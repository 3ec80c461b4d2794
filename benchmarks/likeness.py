"""How measures of likeness order judged pictures: `python -m benchmarks.likeness PACK`."""

from __future__ import annotations

from collections.abc import Sequence

import click
import numpy as np
from numpy.typing import NDArray

from bonsai_quant.core.requirements import installed
from bonsai_quant.evaluation.judging import judge, shrink
from bonsai_quant.evaluation.score import find_pipelines, task_for
from bonsai_quant.evaluation.task import scenery
from bonsai_quant.publishing.report.likeness import ssim
from bonsai_quant.runners.torch.dense import open_pipeline, paint_dense
from bonsai_quant.verification.levels.images import psnr

BATCH = 32


@click.command()
@click.argument("pack", default="mini-klein-ternary")
@click.option("--against", default="mini-klein", show_default=True)
@click.option("--split", default="dev", show_default=True)
@click.option("--prompts", default=17, show_default=True, help="Captions of each category.")
def main(pack: str, against: str, split: str, prompts: int) -> None:
    """Print the share of pairs, one picture passed and one failed, that each measure orders so."""
    pipelines = find_pipelines(pack, against, None)
    task = task_for(pipelines, split=split, prompts=prompts, images=1, seed=0)
    painted = []
    for p in pipelines:
        pipe = open_pipeline(p.name, pipeline=str(p.folder))
        settings = task.benchmark.settings
        painted.append(paint_dense(pipe, task.texts, task.seeds, settings, batch=BATCH))
    mine, theirs = painted
    world = scenery(task.benchmark)
    passed = judge(shrink(mine, world.pixels)[:, None], task.prompts, world).passed[:, 0]
    click.echo(f"{len(passed)} pictures, {passed.mean():.0%} pass")
    for name, values in measured(mine, theirs).items():
        click.echo(f"{name}: {ordered(values, passed):.3f}")


def measured(
    mine: NDArray[np.uint8], theirs: NDArray[np.uint8]
) -> dict[str, Sequence[float] | NDArray[np.float64]]:
    """Likeness of pictures [n, height, width, 3] by each measure: more is nearer."""
    found: dict[str, Sequence[float] | NDArray[np.float64]] = {
        "PSNR": [psnr(a, b) for a, b in zip(mine, theirs, strict=True)],
        "SSIM": ssim(mine, theirs),
    }
    if installed("flip-evaluator"):
        from flip_evaluator import evaluate

        pairs = [(a / np.float32(255), b / np.float32(255))
                 for a, b in zip(mine, theirs, strict=True)]  # fmt: skip
        found["FLIP"] = [-evaluate(b, a, "LDR", applyMagma=False)[1] for a, b in pairs]
    return found


def ordered(values: Sequence[float] | NDArray[np.float64], passed: NDArray[np.bool_]) -> float:
    """The area under the ROC curve: 0.5 is luck, 1 is perfect, nan where all are judged alike."""
    x = np.asarray(values)
    high, low = x[passed][:, None], x[~passed][None]
    return float(((high > low) + 0.5 * (high == low)).mean()) if high.size and low.size else np.nan


if __name__ == "__main__":
    main()
