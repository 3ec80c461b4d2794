"""The commands that train step by step: distill and tune."""

from __future__ import annotations

from typing import Any

import rich_click as click

from bonsai_quant.cli import completion, next_steps
from bonsai_quant.cli import options as shared
from bonsai_quant.cli.help import Command
from bonsai_quant.cli.output import Printer, common_options, open_output, shown_progress
from bonsai_quant.cli.types import ByteSize, Whole
from bonsai_quant.cli.views import training as view
from bonsai_quant.training.distill import (
    Budget,
    DistillationJob,
    budget_here,
    carry_out,
    in_main_memory,
    needed,
    prepare,
    started_processes,
)
from bonsai_quant.training.tune import prepare as prepare_tuning

_TRAINING = (
    shared.prompts,
    shared.seed("Seed of the order of prompts and of the noise."),
    click.option(
        "--steps", type=Whole(), metavar="N", help="Number of updates. [default: the recipe's]"
    ),
    click.option(
        "--batch", type=Whole(), metavar="N", help="States in one update. [default: the recipe's]"
    ),
    click.option(
        "--at-once",
        type=Whole(),
        metavar="N",
        help="States on one device at a time; fewer need less memory. [default: the recipe's]",
    ),
    click.option(
        "--rate",
        type=click.FloatRange(0, min_open=True),
        metavar="RATE",
        help="Learning rate. [default: the recipe's]",
    ),
    shared.overwrite,
    click.option("--resume", is_flag=True, help="Continue from the last checkpoint."),
    click.option(
        "--save-every",
        type=click.FloatRange(0),
        default=600.0,
        show_default=True,
        metavar="SECONDS",
        help="Seconds between checkpoints.",
    ),
    shared.max_memory,
    click.option(
        "-n", "--dry-run", is_flag=True, help="Only show how much memory GPUs would need."
    ),
    click.option(
        "--devices",
        type=Whole(),
        default=1,
        show_default=True,
        metavar="N",
        help="Number of GPUs, for --dry-run.",
    ),
)
CHANGES = ("steps", "batch", "at_once", "rate")
"""Options that are settings of the recipe."""
RUNNING = ("overwrite", "resume", "save_every", "max_memory")
"""Options that say how the training runs, and not what it is."""


def training_options(command: Any) -> Any:
    """Add the options of both commands."""
    for option in reversed(_TRAINING):
        command = option(command)
    return command


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
@click.option(
    "--fit",
    type=ByteSize(),
    metavar="SIZE",
    help="Save memory until no device needs more, such as 24GB. [default: as the recipe says]",
)
@training_options
@common_options
def distill(source: str, fit: int | None, **options: Any) -> None:
    """Train a model to be ternary or binary.

    It learns from itself in full precision, on prompts alone; no pictures are needed. The recipe's
    `distillation` sets the training. `recover` does this and the steps before and after it.

    \b
    # the real model may take days: see first how much memory a GPU needs
    bonsai-quant distill mini-klein --recipe mini-klein-ternary --dry-run
    bonsai-quant distill mini-klein --recipe mini-klein-ternary -o trained
    # on a card of 24 GB: see what is saved, and what is left
    bonsai-quant distill mini-klein --recipe mini-klein-ternary --fit 24GB --dry-run
    # the real model, from the Hub, on eight GPUs
    torchrun --nproc-per-node 8 -m bonsai_quant distill --recipe klein-4b-ternary-trained -o trained
    """
    show = open_output(options)
    job, how = _split(options)
    budget = None
    if fit is not None and how["dry_run"]:
        budget = Budget(fit, how["devices"], half=True)
    elif fit is not None:
        budget = budget_here(fit, started_processes())
    _train(prepare(source, budget=budget, **job), how, show, fit=fit is not None)


@click.command(cls=Command, first="start recipe out resume dry_run")
@shared.source
@click.option(
    "--start",
    required=True,
    type=shared.PACK,
    metavar="PACK",
    help="Pack of the source, such as one that gptq rounded. Its codes stay.",
    shell_complete=completion.pack,
)
@shared.recipe
@click.option("-o", "--out", metavar="OUT", help="Output folder. [default: NAME-MODE-tuned]")
@training_options
@common_options
def tune(source: str, **options: Any) -> None:
    """Train a pack's scales, and what it keeps in 16 bits.

    Its codes stay as they are, so that this takes a fraction of the memory of `distill`, and
    minutes. `convert` packs the result, with the same codes. The recipe's `tuning` sets the
    training.

    \b
    bonsai-quant tune mini-klein --start mini-klein-binary --dry-run
    bonsai-quant tune mini-klein --start mini-klein-binary -o tuned
    """
    show = open_output(options)
    job, how = _split(options)
    _train(prepare_tuning(source, **job), how, show)


def _split(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is to be trained, and how the training runs."""
    changes = {name: options.pop(name) for name in CHANGES}
    how = {name: options.pop(name) for name in (*RUNNING, "dry_run", "devices")}
    return options | {"changes": changes}, how


def _train(job: DistillationJob, how: dict[str, Any], show: Printer, *, fit: bool = False) -> None:
    """Carry it out, or only count its memory. fit: the settings were made to fit."""
    dry_run, devices = how.pop("dry_run"), how.pop("devices")
    if dry_run:
        parts, apart = needed(job, devices, half=True), in_main_memory(job, half=True)
        memory = view.training_memory(parts, devices, apart, job.settings if fit else None)
        show(memory, next_step=next_steps.typed(without=["dry_run", "devices"]))
        return
    with shown_progress(show) as progress:
        result = carry_out(job, progress=progress, **how)
    if result.record is not None:
        step = next_steps.command("convert", result.out, "--mode", result.record["mode"])
        show(view.distilled(result), next_step=step)
