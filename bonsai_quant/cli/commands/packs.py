"""The commands inspect, verify, diff and report."""

from __future__ import annotations

import sys
from typing import Any

import click

from bonsai_quant.cli.output import common, open_output, progress_bar
from bonsai_quant.cli.views import packs as views
from bonsai_quant.packs.diff import diff as run_diff
from bonsai_quant.packs.inspect import inspect as run_inspect
from bonsai_quant.publishing.report import report as run_report
from bonsai_quant.verification.verify import BACKENDS, LEVELS
from bonsai_quant.verification.verify import verify as run_verify


@click.command()
@click.argument("path")
@click.option("--tensors", is_flag=True, help="List every stored tensor.")
@common
def inspect(path: str, tensors: bool, **options: Any) -> None:
    """Show what is in a checkpoint, or in a pack of any format, ours or published by others.

    \b
    bonsai-quant inspect packs/mlx --tensors
    """
    open_output(options)(views.inspected(run_inspect(path), tensors))


@click.command()
@click.argument("pack")
@click.option("--against", metavar="SOURCE", help="Quantize SOURCE again and compare.")
@click.option("--calibration", metavar="FOLDER", help="What guided the solver of the pack.")
@click.option("--lora", multiple=True, metavar="FILE[:SCALE]", help="What was merged into it.")
@click.option("--level", default="codes", show_default=True, help=f"{', '.join(LEVELS)}.")
@click.option("--pipeline", metavar="P", help="Text encoder, VAE and so on of a pack [its source].")
@click.option("--backend", "backends", multiple=True, help=f"{', '.join(BACKENDS)} [all].")
@click.option("--layers", default=3, show_default=True, help="Layers that each kernel is run on.")
@click.option("--threads", type=int, metavar="N", help="Threads [all cores].")
@common
def verify(pack: str, backends: tuple[str, ...], **options: Any) -> None:
    """Prove that PACK is right; exits with 5 at the first wrong thing.

    \b
    bonsai-quant verify packs --against FLUX.2-klein-4B
    bonsai-quant verify packs --level image
    """
    show = open_output(options)
    with progress_bar("verifying", show) as progress:
        verdict = run_verify(pack, backends=backends or BACKENDS, progress=progress, **options)
    show(views.verified(verdict))
    if verdict.failed:
        sys.exit(5)


@click.command()
@click.argument("packs", nargs=-1, required=True)
@click.option("-o", "--out", required=True, metavar="FOLDER", help="Where the three files go.")
@click.option("--against", metavar="SOURCE", help="The full-precision model, to compare with.")
@click.option("--level", default="codes", show_default=True, help="Of the checks; see verify.")
@click.option("--pipeline", metavar="P", help="Text encoder, VAE and so on of a pack [its source].")
@click.option("--overwrite", is_flag=True, help="Replace an earlier report.")
@common
def report(packs: tuple[str, ...], **options: Any) -> None:
    """Write a page about PACKS that needs nothing else: report.html, report.json, layers.csv.

    \b
    bonsai-quant report ternary binary --against mini-klein -o report
    """
    show = open_output(options)
    with progress_bar("reading", show) as progress:
        made = run_report(packs, progress=progress, **options)
    show(views.reported(made))


@click.command()
@click.argument("a")
@click.argument("b")
@click.option("--top", default=10, show_default=True, help="Layers to list.")
@click.option("--threads", type=int, metavar="N", help="Threads [all cores].")
@common
def diff(a: str, b: str, top: int, threads: int | None, **options: Any) -> None:
    """Compare two packs of one mode: flipped codes and drifted scales, layer by layer.

    \b
    bonsai-quant diff packs/bonsai other/mlx
    """
    show = open_output(options)
    with progress_bar("comparing", show) as progress:
        result = run_diff(a, b, threads=threads, progress=progress)
    show(views.compared(result, top))
