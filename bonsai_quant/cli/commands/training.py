"""The commands calibrate, fold, distill and recover."""

from __future__ import annotations

from typing import Any

import click

from bonsai_quant.cli import completion
from bonsai_quant.cli import options as shared
from bonsai_quant.cli.output import common_options, open_output, shown_progress
from bonsai_quant.cli.views import conversion as conversion_view
from bonsai_quant.cli.views import training as training_view
from bonsai_quant.packs.formats import DEFAULT_FORMATS
from bonsai_quant.quantization.solvers import CALIBRATED
from bonsai_quant.training.calibrate import calibrate as run_calibrate
from bonsai_quant.training.distill import distill as run_distill
from bonsai_quant.training.distill import needed, prepare
from bonsai_quant.training.fold import fold as run_fold
from bonsai_quant.training.recover import recover as run_recover

PREPARED = ("mode", "recipe", "out", "prompts", "seed", "start")
"""The options of distill that decide how much memory it needs."""


@click.command()
@shared.source
@shared.mode
@shared.recipe
@click.option(
    "--solver",
    metavar="NAME",
    help=f"Round each block before the next is run: {' or '.join(CALIBRATED)} [no rounding].",
    shell_complete=completion.one_of(*CALIBRATED),
)
@click.option("-o", "--out", metavar="OUT", help="Output folder [./NAME-calibration].")
@shared.prompts
@click.option("--n-prompts", default=64, show_default=True, help="How many prompts to use.")
@click.option(
    "--at-once", default=8, show_default=True, help="States that pass a block at the same time."
)
@click.option("--seed", default=0, show_default=True, help="Seed of the noise.")
@shared.overwrite
@shared.resume
@common_options
def calibrate(source: str, **options: Any) -> None:
    """Measure the inputs of SOURCE's layers, for the solvers that use them.

    \b
    bonsai-quant calibrate mini-klein --mode ternary --solver gptq -o calibration
    bonsai-quant convert mini-klein --mode ternary --solver gptq --calibration calibration
    """
    show = open_output(options)
    with shown_progress(show) as progress:
        result = run_calibrate(source, progress=progress, **options)
    show(training_view.calibrated(result))


@click.command()
@shared.source
@click.option(
    "--calibration",
    required=True,
    metavar="FOLDER",
    help="Calibration of SOURCE in full precision, made without --solver.",
    shell_complete=completion.file,
)
@click.option("-o", "--out", metavar="OUT", help="Output folder [./NAME-folded].")
@click.option(
    "--moves",
    default="heads",
    show_default=True,
    help="Changes to make: heads, scale, sort; separate by commas.",
)
@shared.overwrite
@common_options
def fold(source: str, **options: Any) -> None:
    """Rewrite SOURCE so that it rounds better and computes the same.

    \b
    bonsai-quant calibrate mini-klein -o calibration
    bonsai-quant fold mini-klein --calibration calibration -o folded
    """
    show = open_output(options)
    with shown_progress(show) as progress:
        result = run_fold(source, progress=progress, **options)
    show(training_view.folded(result))


@click.command()
@shared.source
@shared.mode
@click.option(
    "--recipe",
    metavar="FILE",
    help="Path or shipped name of a YAML recipe; its `distillation` sets the training.",
    shell_complete=completion.recipe,
)
@click.option("-o", "--out", metavar="OUT", help="Output folder [./NAME-MODE-distilled].")
@click.option(
    "--start",
    metavar="PACK",
    help="Pack of SOURCE to start from, such as one that `gptq` rounded.",
    shell_complete=completion.pack,
)
@shared.prompts
@click.option(
    "--seed", default=0, show_default=True, help="Seed of the order of prompts and of the noise."
)
@click.option("--steps", type=int, metavar="N", help="Number of updates [the recipe's].")
@click.option("--batch", type=int, metavar="N", help="States in one update [the recipe's].")
@click.option(
    "--at-once", type=int, metavar="N", help="States on one device at a time [the recipe's]."
)
@click.option("--rate", type=float, metavar="RATE", help="Learning rate [the recipe's].")
@shared.overwrite
@click.option("--resume", is_flag=True, help="Continue from the last checkpoint.")
@click.option("--save-every", default=600.0, show_default=True, help="Seconds between checkpoints.")
@click.option(
    "--max-memory", type=int, metavar="BYTES", help="Refuse to start if a device needs more memory."
)
@click.option("-n", "--dry-run", is_flag=True, help="Only show how much memory GPUs would need.")
@click.option("--devices", default=1, show_default=True, help="Number of GPUs, for --dry-run.")
@common_options
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
    torchrun --nproc-per-node 8 -m bonsai_quant distill --recipe klein-4b-ternary-trained
    """
    show = open_output(options)
    changes = {"steps": steps, "batch": batch, "at_once": at_once, "rate": rate}
    if dry_run:
        job = prepare(source, changes=changes, **{k: options[k] for k in PREPARED})
        show(training_view.training_memory(needed(job, devices, half=True), devices))
        return
    with shown_progress(show) as progress:
        result = run_distill(source, changes=changes, progress=progress, **options)
    if result.record is not None:
        show(training_view.distilled(result))


@click.command()
@shared.source
@click.option(
    "--recipe",
    required=True,
    metavar="FILE",
    help=shared.RECIPE_HELP,
    shell_complete=completion.recipe,
)
@click.option(
    "-o",
    "--out",
    required=True,
    metavar="OUT",
    help="Output folder of the packs; earlier stages go to OUT-calibration and so on.",
)
@click.option(
    "-f",
    "--format",
    "formats",
    multiple=True,
    metavar="FORMAT",
    help="Format to write, as in convert.",
    shell_complete=completion.format_name,
)
@shared.prompts
@click.option("--seed", default=0, show_default=True, help="Seed of the training.")
@click.option("--overwrite", is_flag=True, help="Replace earlier results.")
@shared.resume
@common_options
def recover(source: str, formats: tuple[str, ...], **options: Any) -> None:
    """Calibrate, round, train and pack SOURCE as a recipe says: from a pipeline to a good pack.

    \b
    bonsai-quant recover mini-klein --recipe mini-klein-ternary -o packs
    """
    show = open_output(options)
    formats = formats or DEFAULT_FORMATS
    with shown_progress(show) as progress:
        result = run_recover(source, formats=formats, progress=progress, **options)
    show(conversion_view.converted(result.packs))
