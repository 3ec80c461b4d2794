"""The commands convert, plan and export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bonsai_quant.cli.options import choosing
from bonsai_quant.cli.output import common, open_output, progress_bar
from bonsai_quant.cli.views import conversion as views
from bonsai_quant.conversion.checks import Checks
from bonsai_quant.conversion.convert import convert as run_convert
from bonsai_quant.conversion.export import export as run_export
from bonsai_quant.conversion.plan import explain
from bonsai_quant.conversion.plan import plan as run_plan
from bonsai_quant.conversion.settings import DEFAULT_SOURCE
from bonsai_quant.core.schema import DEFAULT_FORMATS, FORMAT_NAMES


@click.command()
@click.argument("source", default=DEFAULT_SOURCE)
@click.option("-o", "--out", metavar="OUT", help="Output folder [./NAME-MODE].")
@click.option("--overwrite", is_flag=True, help="Replace an earlier pack of this program.")
@click.option("--resume", is_flag=True, help="Continue an interrupted run.")
@click.option("-n", "--dry-run", is_flag=True, help="Only plan.")
@click.option("--allow-zero", is_flag=True, help="Accept matrices of nothing but zeros.")
@click.option("--no-sanity", is_flag=True, help="Accept magnitudes that no trained layer has.")
@choosing
@common
def convert(
    source: str,
    out: str | None,
    overwrite: bool,
    resume: bool,
    dry_run: bool,
    allow_zero: bool,
    no_sanity: bool,
    **options: Any,
) -> None:
    """Convert SOURCE (a path, a Hub id or mini-klein) into packs: OUT/bonsai, OUT/mlx, OUT/gemlite.

    \b
    bonsai-quant convert FLUX.2-klein-4B --mode ternary -o packs
    bonsai-quant convert my-finetune.safetensors --recipe my.yaml --format mlx
    bonsai-quant convert FLUX.2-klein-4B --mode ternary --lora style.safetensors:0.8
    """
    show = open_output(options)
    options["formats"] = options["formats"] or DEFAULT_FORMATS
    if dry_run:
        show(views.planned(run_plan(source, **options)))
        return
    with progress_bar("converting", show) as progress:
        made = run_convert(
            source,
            out=out,
            overwrite=overwrite,
            resume=resume,
            progress=progress,
            checks=Checks(not allow_zero, not no_sanity),
            **options,
        )
    show(views.converted(made))


@click.command()
@click.argument("source", default=DEFAULT_SOURCE)
@click.option("--explain", "name", metavar="NAME", help="Which rule decided about this tensor.")
@choosing
@common
def plan(source: str, name: str | None, **options: Any) -> None:
    """Show what a conversion would do, to the byte, from headers alone.

    \b
    bonsai-quant plan FLUX.2-klein-4B --mode binary
    bonsai-quant plan FOLDER --mode ternary --explain proj_out
    """
    show = open_output(options)
    options["formats"] = options["formats"] or DEFAULT_FORMATS
    made = run_plan(source, **options)
    show(views.explained(explain(made, name)) if name else views.planned(made))


@click.command()
@click.argument("pack")
@click.option(
    "-f", "--format", "format_name", required=True, metavar="F", help=f"{', '.join(FORMAT_NAMES)}."
)
@click.option("-o", "--out", required=True, metavar="OUT", help="Output folder.")
@click.option("--pipeline", metavar="P", help="Add its text encoder, VAE and so on [none].")
@click.option("--overwrite", is_flag=True, help="Replace an earlier pack of this program.")
@click.option("--threads", type=int, metavar="N", help="Threads [all cores].")
@common
def export(pack: str, format_name: str, out: str, **options: Any) -> None:
    """Write PACK in another format; no source is needed and nothing of it is rounded.

    \b
    bonsai-quant export packs/bonsai --format unpacked -o dense
    bonsai-quant export mini-klein-ternary --format mlx --pipeline mini-klein -o packs/mlx
    """
    show = open_output(options)
    with progress_bar("exporting", show) as progress:
        manifest = run_export(pack, format=format_name, out=out, progress=progress, **options)
    show(views.exported(Path(out), manifest))
