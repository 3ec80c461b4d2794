"""The commands calibrate, fold and recover."""

from __future__ import annotations

import logging
from typing import Any

import rich_click as click

from bonsai_quant.cli import completion, next_steps
from bonsai_quant.cli import options as shared
from bonsai_quant.cli.help import Command
from bonsai_quant.cli.output import common_options, open_output, shown_progress
from bonsai_quant.cli.types import ByteSize, OneOf, PictureSize, Whole
from bonsai_quant.cli.views import conversion as conversion_view
from bonsai_quant.cli.views import training as training_view
from bonsai_quant.core.errors import UsageError
from bonsai_quant.packs.formats import DEFAULT_FORMATS
from bonsai_quant.quantization.solvers import CALIBRATED
from bonsai_quant.training.calibrate import calibrate as run_calibrate
from bonsai_quant.training.fold import fold as run_fold
from bonsai_quant.training.recover import recover as run_recover

log = logging.getLogger(__name__)
HOURS = 3.0


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
    if made is not None:
        step = next_steps.after_calibrate(source, made.mode, made.solver, result.out)
        show(training_view.calibrated(result.out, made), next_step=step)


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


@click.command(cls=Command, needs="recipe mode", first="recipe mode hours fit out dry_run formats")
@shared.source
@click.option(
    "--recipe",
    type=shared.RECIPE,
    metavar="RECIPE",
    help="A YAML file, or the name of a shipped recipe such as mini-klein-ternary.",
    shell_complete=completion.recipe,
)
@shared.mode
@click.option(
    "--hours",
    type=click.FloatRange(0, min_open=True),
    metavar="HOURS",
    help="Instead of a recipe: take the rungs that fit into so much time. [default: 3]",
)
@click.option(
    "--fit",
    type=ByteSize(),
    metavar="SIZE",
    help="And into so much memory, such as 24GB. [default: what is free]",
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
@click.option("-n", "--dry-run", is_flag=True, help="Only show what each rung costs and brings.")
@common_options
def recover(
    source: str, formats: tuple[str, ...], mode: str | None, hours: float | None,
    fit: int | None, dry_run: bool, **options: Any,
) -> None:  # fmt: skip
    """Make a pack that paints like its source.

    It calibrates, rounds, trains and packs, as a recipe says. Without a recipe it picks the rungs
    that fit into --hours and --fit, and says first what each costs and brings.

    \b
    bonsai-quant recover mini-klein --recipe mini-klein-ternary -o packs
    # what fits into three hours and 24 GB
    bonsai-quant recover mini-klein --mode ternary --hours 3 --fit 24GB --dry-run -o packs
    # the real model, from the Hub, on a GPU
    bonsai-quant recover --recipe klein-4b-ternary-trained -o klein-packs
    """
    show = open_output(options)
    formats = formats or DEFAULT_FORMATS
    if options["recipe"] is None:
        from bonsai_quant.training.rungs import choose_rungs  # which imports torch

        ladder = choose_rungs(source, mode or "", hours=hours or HOURS, memory=fit)
        options["recipe"] = ladder.recovery
        if dry_run:
            show(training_view.rungs(ladder), next_step=next_steps.typed(without=["dry_run"]))
            return
        log.warning("%s", training_view.rungs(ladder).text)
    elif mode or hours or fit or dry_run:
        raise UsageError("a recipe already says what is done", hint="give --recipe alone")
    with shown_progress(show) as progress:
        result = run_recover(source, formats=formats, progress=progress, **options)
    step = next_steps.after_recover(source, result.packs.out)
    show(conversion_view.converted(result.packs, source), next_step=step)
