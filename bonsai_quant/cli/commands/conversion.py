"""The commands convert, plan and export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bonsai_quant.cli import completion
from bonsai_quant.cli import options as shared
from bonsai_quant.cli.output import common_options, open_output, shown_progress
from bonsai_quant.cli.views import conversion as views
from bonsai_quant.conversion.checks import Checks
from bonsai_quant.conversion.convert import convert as run_convert
from bonsai_quant.conversion.export import export as run_export
from bonsai_quant.conversion.plan import explain
from bonsai_quant.conversion.plan import plan as run_plan
from bonsai_quant.packs.formats import DEFAULT_FORMATS, FORMAT_NAMES


@click.command()
@shared.source
@click.option("-o", "--out", metavar="OUT", help="Output folder [./NAME-MODE].")
@shared.overwrite_pack
@shared.resume
@click.option("-n", "--dry-run", is_flag=True, help="Show the plan and write nothing.")
@click.option("--allow-zero", is_flag=True, help="Accept matrices that are all zeros.")
@click.option("--no-sanity", is_flag=True, help="Accept weights too large for a trained layer.")
@shared.conversion_options
@common_options
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
    with shown_progress(show) as progress:
        result = run_convert(
            source,
            out=out,
            overwrite=overwrite,
            resume=resume,
            progress=progress,
            checks=Checks(not allow_zero, not no_sanity),
            **options,
        )
    show(views.converted(result))


@click.command()
@shared.source
@click.option("--explain", "name", metavar="NAME", help="Say which rule decided on this tensor.")
@shared.conversion_options
@common_options
def plan(source: str, name: str | None, **options: Any) -> None:
    """Show what a conversion would do, to the byte, from headers alone.

    \b
    bonsai-quant plan FLUX.2-klein-4B --mode binary
    bonsai-quant plan FOLDER --mode ternary --explain proj_out
    """
    show = open_output(options)
    options["formats"] = options["formats"] or DEFAULT_FORMATS
    result = run_plan(source, **options)
    show(views.explained(explain(result, name)) if name else views.planned(result))


@click.command()
@click.argument("pack", shell_complete=completion.pack)
@click.option(
    "-f",
    "--format",
    "format_name",
    required=True,
    metavar="FORMAT",
    help=f"Format to write: {', '.join(FORMAT_NAMES)}.",
    shell_complete=completion.format_name,
)
@click.option("-o", "--out", required=True, metavar="OUT", help="Output folder.")
@click.option(
    "--pipeline",
    metavar="PIPELINE",
    help="Pipeline whose text encoder, VAE and so on are added [none].",
    shell_complete=completion.model,
)
@shared.overwrite_pack
@shared.threads
@common_options
def export(pack: str, format_name: str, out: str, **options: Any) -> None:
    """Write PACK in another format: no source is needed, and nothing is rounded.

    \b
    bonsai-quant export packs/bonsai --format unpacked -o dense
    bonsai-quant export mini-klein-ternary --format mlx --pipeline mini-klein -o packs/mlx
    """
    show = open_output(options)
    with shown_progress(show) as progress:
        manifest = run_export(pack, format=format_name, out=out, progress=progress, **options)
    show(views.exported(Path(out), manifest))
