"""The commands inspect, verify, diff and report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import rich_click as click

from bonsai_quant.cli import completion, next_steps
from bonsai_quant.cli import options as shared
from bonsai_quant.cli.help import Command
from bonsai_quant.cli.output import common_options, open_output, shown_progress
from bonsai_quant.cli.pack_argument import local_pack
from bonsai_quant.cli.types import OneOf, OutFolder, Whole
from bonsai_quant.cli.views import packs as views
from bonsai_quant.core.errors import VerificationFailed
from bonsai_quant.packs.diff import diff as run_diff
from bonsai_quant.packs.inspect import inspect as run_inspect
from bonsai_quant.publishing.report import PAGE
from bonsai_quant.publishing.report import report as run_report
from bonsai_quant.runners.prompts import read_prompts
from bonsai_quant.verification.verify import BACKENDS
from bonsai_quant.verification.verify import verify as run_verify


@click.command(cls=Command)
@click.argument(
    "path",
    type=shared.MODEL_OR_PACK,
    shell_complete=completion.model_or_pack,
    help="A checkpoint, a pack, a folder of packs, a pack's id on the Hub, or a painted picture.",
)
@click.option("--tensors", is_flag=True, help="List every stored tensor.")
@common_options
def inspect(path: str, tensors: bool, **options: Any) -> None:
    """Show what is in a checkpoint or a pack.

    \b
    bonsai-quant inspect mini-klein-ternary
    bonsai-quant inspect packs/mlx --tensors
    """
    show = open_output(options)
    with shown_progress(show) as progress:
        found = run_inspect(local_pack(path, progress))
    show(views.inspected(found, tensors), next_step=next_steps.after_inspect(path, found))


@click.command(cls=Command, first="against level")
@shared.pack
@shared.against
@click.option(
    "--calibration",
    metavar="FOLDER",
    help="Calibration that the pack was converted with.",
    shell_complete=completion.file,
)
@click.option(
    "--lora",
    multiple=True,
    metavar="FILE:SCALE",
    help="LoRA that was merged into the pack; repeat for more.",
    shell_complete=completion.file,
)
@shared.level
@shared.pipeline
@shared.choice(
    "--backend",
    "backends",
    multiple=True,
    kind=OneOf("backend", BACKENDS),
    help="Backend to check; repeat for more.",
    unset="all",
)
@click.option(
    "--layers",
    type=Whole(),
    default=3,
    show_default=True,
    metavar="N",
    help="Layers that each kernel is run on, at the level kernel.",
)
@shared.threads
@common_options
def verify(pack: str, backends: tuple[str, ...], **options: Any) -> None:
    """Prove that a pack is right.

    The first wrong thing is named, and the exit code is 5 if a check fails. With --against, the
    source is rounded again and compared.

    \b
    bonsai-quant verify mini-klein-ternary
    bonsai-quant verify packs --against mini-klein
    # run the kernels of MLX and gemlite on the pack's bytes
    bonsai-quant verify packs --level kernel
    """
    show = open_output(options)
    with shown_progress(show) as progress:
        place = local_pack(pack, progress)
        verdict = run_verify(place, backends=backends or BACKENDS, progress=progress, **options)
    lender = options["pipeline"] or options["against"]
    show(views.verified(verdict), next_step=next_steps.after_verify(pack, verdict.failed, lender))
    if verdict.failed:
        sys.exit(VerificationFailed.exit_code)


@click.command(cls=Command, first="out against prompts opened")
@click.argument(
    "packs",
    type=shared.PACK,
    nargs=-1,
    required=True,
    shell_complete=completion.pack,
    help="One pack or more, each a folder or an id on the Hub.",
)
@click.option(
    "-o", "--out", type=OutFolder(), required=True, metavar="FOLDER", help="Output folder."
)
@shared.against
@click.option(
    "-p",
    "--prompt",
    "prompts",
    multiple=True,
    metavar="TEXT",
    help="What to paint; repeat for more. [default: prompts that nobody chose]",
)
@click.option(
    "--prompts",
    "file",
    metavar="FILE",
    help="File of prompts, one a line.",
    shell_complete=completion.file,
)
@click.option(
    "--seed", default=0, show_default=True, metavar="N", help="Seed of the first picture's noise."
)
@click.option("--size", metavar="WxH", help="Size of pictures. [default: the pipeline's]")
@click.option(
    "--score",
    "scores",
    multiple=True,
    metavar="FILE",
    help="What score --json printed of a pack; repeat for more.",
    shell_complete=completion.file,
)
@shared.level
@shared.pipeline
@click.option("--open", "opened", is_flag=True, help="Open the page in a browser.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier report.")
@common_options
def report(
    packs: tuple[str, ...],
    prompts: tuple[str, ...],
    file: str | None,
    opened: bool,
    **options: Any,
) -> None:
    """Write one page that compares packs.

    The folder gets report.html, which needs nothing else, with report.json, layers.csv, gallery.png
    and share.png. If a check fails, the page says so, and the exit code is 5.

    \b
    bonsai-quant report mini-klein-ternary mini-klein-binary --against mini-klein -o report
    # your own prompts
    bonsai-quant report mini-klein-ternary --against mini-klein -p "two green triangles" -o own
    """
    show = open_output(options)
    texts = [*prompts, *(read_prompts(Path(file)) if file else ())]
    with shown_progress(show) as progress:
        places = [local_pack(p, progress) for p in packs]
        result = run_report(places, prompts=texts, progress=progress, **options)
    show(views.reported(result), next_step=next_steps.after_report(result.out, packs[0]))
    if opened:
        click.launch(str((result.out / PAGE).resolve()))
    if result.failed:
        sys.exit(VerificationFailed.exit_code)


@click.command(cls=Command)
@click.argument("a", type=shared.PACK, shell_complete=completion.pack, help="A pack.")
@click.argument(
    "b", type=shared.PACK, shell_complete=completion.pack, help="Another pack of the same mode."
)
@click.option(
    "--top",
    type=Whole(0),
    default=10,
    show_default=True,
    metavar="N",
    help="How many layers to list.",
)
@shared.threads
@common_options
def diff(a: str, b: str, top: int, threads: int | None, **options: Any) -> None:
    """Compare two packs, layer by layer.

    Which codes flipped, and how far the scales drifted.

    \b
    # what training changed
    bonsai-quant diff packs/bonsai mini-klein-ternary
    """
    show = open_output(options)
    with shown_progress(show) as progress:
        result = run_diff(a, b, threads=threads, progress=progress)
    step = next_steps.command("report", a, b, "-o", "report")
    show(views.compared(result, top), next_step=step)
