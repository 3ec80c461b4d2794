"""The commands calibrate, fold, distill and recover."""

from __future__ import annotations

from typing import Any

import rich_click as click

from bonsai_quant.cli import completion, next_steps
from bonsai_quant.cli import options as shared
from bonsai_quant.cli.help import Command
from bonsai_quant.cli.output import common_options, open_output, shown_progress
from bonsai_quant.cli.types import OneOf, PictureSize, Whole
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


@click.command(cls=Command, first="mode solver out")
@shared.source
@shared.mode
@shared.recipe
@shared.choice(
    "--solver",
    kind=OneOf("solver", CALIBRATED),
    help="Solve every layer with it, behind those before it.",
    unset="nothing is rounded, and inputs are measured",
)
@click.option("-o", "--out", metavar="OUT", help="Output folder. [default: NAME-calibration]")
@shared.prompts
@click.option(
    "--n-prompts",
    type=Whole(),
    default=64,
    show_default=True,
    metavar="N",
    help="How many prompts to use.",
)
@click.option(
    "--at-once",
    type=Whole(),
    default=8,
    show_default=True,
    metavar="N",
    help="States that pass a block at the same time; fewer need less memory.",
)
@click.option(
    "--size",
    type=PictureSize(),
    metavar="WxH",
    help="Width and height of the pictures that are painted. [default: the pipeline's]",
)
@shared.seed("Seed of the noise.")
@shared.overwrite
@shared.resume
@common_options
def calibrate(source: str, **options: Any) -> None:
    """Choose codes that keep what each layer does.

    Every layer is solved behind those before it, on states of the model's own way to pictures.
    It says first what time and memory that takes. `convert` packs the result.

    \b
    bonsai-quant calibrate mini-klein --mode ternary --solver gptq -o calibration
    bonsai-quant convert mini-klein --mode ternary --solver gptq --calibration calibration
    """
    show = open_output(options)
    with shown_progress(show) as progress:
        result = run_calibrate(source, progress=progress, **options)
    made = result.record
    step = next_steps.after_calibrate(source, made.mode, made.solver, result.out)
    show(training_view.calibrated(result), next_step=step)


@click.command(cls=Command)
@shared.source
@click.option(
    "--calibration",
    required=True,
    metavar="FOLDER",
    help="Calibration of the source, made without --solver.",
    shell_complete=completion.file,
)
@click.option("-o", "--out", metavar="OUT", help="Output folder. [default: NAME-folded]")
@shared.choice(
    "--moves",
    default="heads",
    show_default=True,
    kind=OneOf("move", ("heads", "scale", "sort"), listed=True),
    help="Changes to make, separated by commas.",
)
@shared.overwrite
@common_options
def fold(source: str, **options: Any) -> None:
    """Rewrite a model so that it rounds better.

    It computes the same as before. Its calibration is one in full precision, made without a solver.

    \b
    bonsai-quant calibrate mini-klein -o calibration
    bonsai-quant fold mini-klein --calibration calibration -o folded
    """
    show = open_output(options)
    with shown_progress(show) as progress:
        result = run_fold(source, progress=progress, **options)
    step = next_steps.command("convert", result.out, "--mode", "ternary")
    show(training_view.folded(result), next_step=step)


@click.command(cls=Command, needs="recipe mode", first="recipe mode out start resume dry_run")
@shared.source
@shared.mode
@shared.recipe
@click.option("-o", "--out", metavar="OUT", help="Output folder. [default: NAME-MODE-distilled]")
@click.option(
    "--start",
    type=shared.PACK,
    metavar="PACK",
    help="Pack of the source to start from, such as one that gptq rounded.",
    shell_complete=completion.pack,
)
@shared.prompts
@shared.seed("Seed of the order of prompts and of the noise.")
@click.option(
    "--steps", type=Whole(), metavar="N", help="Number of updates. [default: the recipe's]"
)
@click.option(
    "--batch", type=Whole(), metavar="N", help="States in one update. [default: the recipe's]"
)
@click.option(
    "--at-once",
    type=Whole(),
    metavar="N",
    help="States on one device at a time; fewer need less memory. [default: the recipe's]",
)
@click.option(
    "--rate",
    type=click.FloatRange(0, min_open=True),
    metavar="RATE",
    help="Learning rate. [default: the recipe's]",
)
@shared.overwrite
@click.option("--resume", is_flag=True, help="Continue from the last checkpoint.")
@click.option(
    "--save-every",
    type=click.FloatRange(0),
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="Seconds between checkpoints.",
)
@shared.max_memory
@click.option("-n", "--dry-run", is_flag=True, help="Only show how much memory GPUs would need.")
@click.option(
    "--devices",
    type=Whole(),
    default=1,
    show_default=True,
    metavar="N",
    help="Number of GPUs, for --dry-run.",
)
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
    """Train a model to be ternary or binary.

    It learns from itself in full precision, on prompts alone; no pictures are needed. The recipe's
    `distillation` sets the training. `recover` does this and the steps before and after it.

    \b
    # the real model may take days: see first how much memory a GPU needs
    bonsai-quant distill mini-klein --recipe mini-klein-ternary --dry-run
    bonsai-quant distill mini-klein --recipe mini-klein-ternary -o trained
    # the real model, from the Hub, on eight GPUs
    torchrun --nproc-per-node 8 -m bonsai_quant distill --recipe klein-4b-ternary-trained -o trained
    """
    show = open_output(options)
    changes = {"steps": steps, "batch": batch, "at_once": at_once, "rate": rate}
    if dry_run:
        job = prepare(source, changes=changes, **{k: options[k] for k in PREPARED})
        memory = training_view.training_memory(needed(job, devices, half=True), devices)
        show(memory, next_step=next_steps.typed(without=["dry_run", "devices"]))
        return
    with shown_progress(show) as progress:
        result = run_distill(source, changes=changes, progress=progress, **options)
    if result.record is not None:
        step = next_steps.command("convert", result.out, "--mode", result.record["mode"])
        show(training_view.distilled(result), next_step=step)


@click.command(cls=Command, first="recipe out formats")
@shared.source
@click.option(
    "--recipe",
    required=True,
    type=shared.RECIPE,
    metavar="RECIPE",
    help="A YAML file, or the name of a shipped recipe such as mini-klein-ternary.",
    shell_complete=completion.recipe,
)
@click.option(
    "-o",
    "--out",
    required=True,
    metavar="OUT",
    help="Output folder of the packs; earlier stages go to OUT-calibration and so on.",
)
@shared.formats
@shared.prompts
@shared.seed("Seed of the training.")
@click.option("--overwrite", is_flag=True, help="Replace earlier results.")
@shared.resume
@common_options
def recover(source: str, formats: tuple[str, ...], **options: Any) -> None:
    """Make a pack that paints like its source.

    It calibrates, rounds, trains and packs, as a recipe says. mini-klein takes 12 to
    22 minutes on two cores.

    \b
    bonsai-quant recover mini-klein --recipe mini-klein-ternary -o packs
    # the real model, from the Hub, on a GPU
    bonsai-quant recover --recipe klein-4b-ternary-trained -o klein-packs
    """
    show = open_output(options)
    formats = formats or DEFAULT_FORMATS
    with shown_progress(show) as progress:
        result = run_recover(source, formats=formats, progress=progress, **options)
    step = next_steps.after_recover(source, result.packs.out)
    show(conversion_view.converted(result.packs, source), next_step=step)
