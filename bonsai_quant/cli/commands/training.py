"""The commands that train, which cli.py adds to its own."""

from __future__ import annotations

from typing import Any

import click

from bonsai_quant.cli.output import common, open_output, progress_bar
from bonsai_quant.cli.views import conversion as conversion_view
from bonsai_quant.cli.views import training as training_view
from bonsai_quant.conversion.settings import DEFAULT_SOURCE
from bonsai_quant.core.schema import DEFAULT_FORMATS, MODES
from bonsai_quant.quantization.solvers import CALIBRATED
from bonsai_quant.training.calibrate import calibrate as run_calibrate
from bonsai_quant.training.distill import distill as run_distill
from bonsai_quant.training.distill import needed, prepare
from bonsai_quant.training.fold import fold as run_fold
from bonsai_quant.training.recover import recover as run_recover


@click.command()
@click.argument("source", default=DEFAULT_SOURCE)
@click.option("--mode", metavar="MODE", help=f"{' or '.join(MODES)}; with --solver.")
@click.option("--recipe", metavar="FILE", help="A YAML recipe, or a shipped one's name.")
@click.option("--solver", metavar="NAME", help=f"Round as it goes: {' or '.join(CALIBRATED)}.")
@click.option("-o", "--out", metavar="OUT", help="Output folder [./NAME-calibration].")
@click.option("--prompts", metavar="FILE", help="Prompts to look at, one a line [ours].")
@click.option("--samples", default=64, show_default=True, help="How many prompts.")
@click.option("--at-once", default=8, show_default=True, help="States in a block at a time.")
@click.option("--seed", default=0, show_default=True, help="Of the noise.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier result.")
@click.option("--resume", is_flag=True, help="Go on where an interrupted run stopped.")
@common
def calibrate(source: str, **options: Any) -> None:
    """Learn what the inputs of SOURCE's layers look like, for the solvers that use it.

    \b
    bonsai-quant calibrate mini-klein --mode ternary --solver gptq -o calibration
    bonsai-quant convert mini-klein --mode ternary --solver gptq --calibration calibration
    """
    show = open_output(options)
    with progress_bar("calibrating", show, unit=" blocks") as progress:
        made = run_calibrate(source, progress=progress, **options)
    show(training_view.calibrated(made))


@click.command()
@click.argument("source", default=DEFAULT_SOURCE)
@click.option("--calibration", required=True, metavar="FOLDER", help="In full precision.")
@click.option("-o", "--out", metavar="OUT", help="Output folder [./NAME-folded].")
@click.option("--moves", default="heads", show_default=True, help="Also scale, sort; by commas.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier result.")
@common
def fold(source: str, **options: Any) -> None:
    """Rewrite SOURCE so that it rounds better and computes the same.

    \b
    bonsai-quant calibrate mini-klein -o calibration
    bonsai-quant fold mini-klein --calibration calibration -o folded
    """
    show = open_output(options)
    with progress_bar("folding", show) as progress:
        made = run_fold(source, progress=progress, **options)
    show(training_view.folded(made))


@click.command()
@click.argument("source", default=DEFAULT_SOURCE)
@click.option("--mode", metavar="MODE", help=f"{' or '.join(MODES)}.")
@click.option("--recipe", metavar="FILE", help="A YAML recipe with a `distillation`, or its name.")
@click.option("-o", "--out", metavar="OUT", help="Output folder [./NAME-MODE-distilled].")
@click.option("--start", metavar="PACK", help="Begin as this pack, as `gptq` leaves it.")
@click.option("--prompts", metavar="FILE", help="Prompts to learn from, one a line [ours].")
@click.option("--seed", default=0, show_default=True, help="Of the order of prompts, and of noise.")
@click.option("--steps", type=int, metavar="N", help="Updates [the recipe's].")
@click.option("--batch", type=int, metavar="N", help="States in one update [the recipe's].")
@click.option("--at-once", type=int, metavar="N", help="Of those, on one device at a time.")
@click.option("--rate", type=float, metavar="R", help="Learning rate [the recipe's].")
@click.option("--overwrite", is_flag=True, help="Replace an earlier result.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint.")
@click.option("--save-every", default=600.0, show_default=True, help="Seconds between checkpoints.")
@click.option("--max-memory", type=int, metavar="BYTES", help="Refuse if a device needs more.")
@click.option("-n", "--dry-run", is_flag=True, help="Only tell what memory GPUs would need.")
@click.option("--devices", default=1, show_default=True, help="Of how many, with --dry-run.")
@common
def distill(
    source: str,
    dry_run: bool,
    devices: int,
    steps: int | None,
    batch: int | None,
    at_once: int | None,
    rate: float | None,
    **options: Any,
) -> None:
    """Train SOURCE, a pipeline, to be ternary or binary: prompts only, its own teacher.

    \b
    bonsai-quant distill mini-klein --recipe mini-klein-ternary -o trained
    torchrun --nproc-per-node 8 -m bonsai_quant distill --recipe klein-4b-ternary-distilled
    """
    show = open_output(options)
    changes = {"steps": steps, "batch": batch, "at_once": at_once, "rate": rate}
    if dry_run:
        said = ("mode", "recipe", "out", "prompts", "seed", "start")
        work = prepare(source, changes=changes, **{k: options[k] for k in said})
        show(training_view.training_memory(needed(work, devices, half=True), devices))
        return
    with progress_bar("training", show, unit=" updates") as progress:
        made = run_distill(source, changes=changes, progress=progress, **options)
    if made.record is not None:
        show(training_view.distilled(made))


@click.command()
@click.argument("source", default=DEFAULT_SOURCE)
@click.option(
    "--recipe", required=True, metavar="FILE", help="A YAML recipe, or a shipped one's name."
)
@click.option(
    "-o",
    "--out",
    required=True,
    metavar="OUT",
    help="Of the packs; OUT-... for what leads to them.",
)
@click.option("-f", "--format", "formats", multiple=True, metavar="F", help="As in convert.")
@click.option("--prompts", metavar="FILE", help="Prompts to learn from, one a line [ours].")
@click.option("--seed", default=0, show_default=True, help="Of the training.")
@click.option("--overwrite", is_flag=True, help="Replace earlier results.")
@click.option("--resume", is_flag=True, help="Go on where an interrupted run stopped.")
@common
def recover(source: str, formats: tuple[str, ...], **options: Any) -> None:
    """Calibrate, round, train and pack SOURCE as a recipe says: from a pipeline to a good pack.

    \b
    bonsai-quant recover mini-klein --recipe mini-klein-ternary -o packs
    """
    show = open_output(options)
    with progress_bar("training", show, unit=" updates") as progress:
        made = run_recover(source, formats=formats or DEFAULT_FORMATS, progress=progress, **options)
    show(conversion_view.converted(made.packs))
