"""The commands inspect, verify, diff and report."""

from __future__ import annotations

import sys
from typing import Any

import click

from bonsai_quant.cli import completion
from bonsai_quant.cli import options as shared
from bonsai_quant.cli.output import common_options, open_output, shown_progress
from bonsai_quant.cli.views import packs as views
from bonsai_quant.core.errors import VerificationFailed
from bonsai_quant.packs.diff import diff as run_diff
from bonsai_quant.packs.inspect import inspect as run_inspect
from bonsai_quant.publishing.report import report as run_report
from bonsai_quant.verification.levels import LEVELS
from bonsai_quant.verification.verify import BACKENDS
from bonsai_quant.verification.verify import verify as run_verify


@click.command()
@click.argument("path", shell_complete=completion.model_or_pack)
@click.option("--tensors", is_flag=True, help="List every stored tensor.")
@common_options
def inspect(path: str, tensors: bool, **options: Any) -> None:
    """Show what is in a checkpoint or pack of any format, from this program or another.

    \b
    bonsai-quant inspect packs/mlx --tensors
    """
    open_output(options)(views.inspected(run_inspect(path), tensors))


@click.command()
@click.argument("pack", shell_complete=completion.pack)
@click.option(
    "--against",
    metavar="SOURCE",
    help="Full-precision model to quantize again and compare with.",
    shell_complete=completion.model,
)
@click.option(
    "--calibration",
    metavar="FOLDER",
    help="Calibration that PACK was converted with.",
    shell_complete=completion.file,
)
@click.option(
    "--lora",
    multiple=True,
    metavar="FILE[:SCALE]",
    help="LoRA that was merged into PACK; repeat for more.",
    shell_complete=completion.file,
)
@click.option(
    "--level",
    default="codes",
    show_default=True,
    help=f"Last level to check: {', '.join(LEVELS)}.",
    shell_complete=completion.level,
)
@shared.pipeline
@click.option(
    "--backend",
    "backends",
    multiple=True,
    metavar="NAME",
    help=f"Backend to check: {', '.join(BACKENDS)}; repeat for more [all].",
    shell_complete=completion.backend,
)
@click.option("--layers", default=3, show_default=True, help="Layers that each kernel is run on.")
@shared.threads
@common_options
def verify(pack: str, backends: tuple[str, ...], **options: Any) -> None:
    """Prove that PACK is right; exit with 5 if a check fails.

    \b
    bonsai-quant verify packs --against FLUX.2-klein-4B
    bonsai-quant verify packs --level image
    """
    show = open_output(options)
    with shown_progress(show) as progress:
        verdict = run_verify(pack, backends=backends or BACKENDS, progress=progress, **options)
    show(views.verified(verdict))
    if verdict.failed:
        sys.exit(VerificationFailed.exit_code)


@click.command()
@click.argument("packs", nargs=-1, required=True, shell_complete=completion.pack)
@click.option("-o", "--out", required=True, metavar="FOLDER", help="Output folder.")
@click.option(
    "--against",
    metavar="SOURCE",
    help="Full-precision model to compare with.",
    shell_complete=completion.model,
)
@click.option(
    "--level",
    default="codes",
    show_default=True,
    help=f"Last level to check: {', '.join(LEVELS)}.",
    shell_complete=completion.level,
)
@shared.pipeline
@click.option("--overwrite", is_flag=True, help="Replace an earlier report.")
@common_options
def report(packs: tuple[str, ...], **options: Any) -> None:
    """Write one self-contained page about PACKS: report.html, with report.json and layers.csv.

    \b
    bonsai-quant report ternary binary --against mini-klein -o report
    """
    show = open_output(options)
    with shown_progress(show) as progress:
        result = run_report(packs, progress=progress, **options)
    show(views.reported(result))


@click.command()
@click.argument("a", shell_complete=completion.pack)
@click.argument("b", shell_complete=completion.pack)
@click.option("--top", default=10, show_default=True, help="How many layers to list.")
@shared.threads
@common_options
def diff(a: str, b: str, top: int, threads: int | None, **options: Any) -> None:
    """Compare two packs of one mode: flipped codes and drifted scales, layer by layer.

    \b
    bonsai-quant diff packs/bonsai other/mlx
    """
    show = open_output(options)
    with shown_progress(show) as progress:
        result = run_diff(a, b, threads=threads, progress=progress)
    show(views.compared(result, top))
