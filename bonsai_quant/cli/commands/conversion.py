"""The commands convert, plan and export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from bonsai_quant.cli import completion, next_steps
from bonsai_quant.cli import options as shared
from bonsai_quant.cli.help import Command
from bonsai_quant.cli.output import common_options, open_output, shown_progress
from bonsai_quant.cli.types import OneOf
from bonsai_quant.cli.views import conversion as views
from bonsai_quant.conversion.checks import Checks
from bonsai_quant.conversion.convert import convert as run_convert
from bonsai_quant.conversion.export import export as run_export
from bonsai_quant.conversion.plan import explain
from bonsai_quant.conversion.plan import plan as run_plan
from bonsai_quant.conversion.settings import choose_recipe, default_out
from bonsai_quant.packs.formats import DEFAULT_FORMATS, FORMAT_NAMES
from bonsai_quant.quantization.solvers import CALIBRATED
from bonsai_quant.training.calibrate import calibrated


@click.command(
    cls=Command, needs="mode recipe", first="mode recipe formats out dry_run resume overwrite"
)
@shared.source
@click.option(
    "-o",
    "--out",
    metavar="OUT",
    help="Output folder. [default: NAME-MODE, such as mini-klein-ternary]",
)
@shared.overwrite_pack
@shared.resume
@click.option("-n", "--dry-run", is_flag=True, help="Show the plan; write nothing.")
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
    """Round a model into ternary or binary packs.

    Each format is one folder in OUT: bonsai for exchange, mlx for Macs, gemlite for NVIDIA GPUs,
    unpacked, diffusers and sdnq for diffusers, gguf for stable-diffusion.cpp, onnx for
    onnxruntime and browsers. Rounding alone costs quality; `recover` wins most of it back.
    With --solver gptq it calibrates first, and says what that takes.

    \b
    bonsai-quant convert mini-klein --mode ternary -o packs
    # a fine-tune, with a LoRA merged at 0.8, for Macs only
    bonsai-quant convert my-finetune --mode binary --lora style.safetensors:0.8 -f mlx
    # the real model, from the Hub
    bonsai-quant convert black-forest-labs/FLUX.2-klein-4B --mode ternary -o klein-packs
    """
    show = open_output(options)
    options["formats"] = options["formats"] or DEFAULT_FORMATS
    if dry_run:
        plan = views.planned(run_plan(source, **options))
        show(plan, next_step=next_steps.typed(without=["dry_run"]))
        return
    with shown_progress(show) as progress:
        if folder := _missing_calibration(source, out, options):
            options["calibration"] = calibrated(
                source, folder, recipe=options["recipe"], mode=options["mode"],
                solver=options["solver"], resume=resume, progress=progress,
            )  # fmt: skip
        result = run_convert(
            source,
            out=out,
            overwrite=overwrite,
            resume=resume,
            progress=progress,
            checks=Checks(not allow_zero, not no_sanity),
            **options,
        )
    show(views.converted(result, source), next_step=next_steps.after_convert(result.out, source))


def _missing_calibration(source: str, out: str | None, options: dict[str, Any]) -> Path | None:
    """Where the calibration goes that the solver needs and nobody gave."""
    recipe, _ = choose_recipe(options["recipe"], options["mode"], options["solver"])
    if recipe.solver not in CALIBRATED or options["calibration"] or options["lora"]:
        return None
    return Path(f"{out or default_out(source, recipe.mode)}-calibration")


@click.command(cls=Command, needs="mode recipe", first="mode formats name")
@shared.source
@click.option(
    "--explain",
    "name",
    metavar="TENSOR",
    help="Say which rule of the recipe decided on this tensor.",
)
@shared.conversion_options
@common_options
def plan(source: str, name: str | None, **options: Any) -> None:
    """Show what convert would do, and write nothing.

    Every tensor, every output byte and the memory needed, from the headers of the files alone.

    \b
    bonsai-quant plan mini-klein --mode ternary
    # why one tensor is packed or kept
    bonsai-quant plan mini-klein --mode ternary --explain proj_out
    # the real model: only its headers are fetched from the Hub
    bonsai-quant plan black-forest-labs/FLUX.2-klein-4B --mode binary
    """
    show = open_output(options)
    options["formats"] = options["formats"] or DEFAULT_FORMATS
    result = run_plan(source, **options)
    answer = views.explained(explain(result, name)) if name else views.planned(result)
    show(answer, next_step=next_steps.typed("convert", without=["name"]))


@click.command(cls=Command, first="format_name out pipeline")
@shared.pack
@shared.choice(
    "-f",
    "--format",
    "format_name",
    required=True,
    kind=OneOf("format", FORMAT_NAMES),
    help="Format to write.",
)
@click.option("-o", "--out", required=True, metavar="OUT", help="Output folder.")
@click.option(
    "--pipeline",
    metavar="PIPELINE",
    type=shared.MODEL,
    help="Pipeline whose text encoder, VAE and so on are added. [default: none]",
    shell_complete=completion.model,
)
@shared.overwrite_pack
@shared.threads
@common_options
def export(pack: str, format_name: str, out: str, **options: Any) -> None:
    """Write a pack in another format.

    No source is needed, and nothing is rounded: all formats decode to the same weights.

    \b
    # dense weights in 16 bits, for diffusers
    bonsai-quant export mini-klein-ternary --format unpacked -o dense
    # for Macs, with all that is needed to paint
    bonsai-quant export mini-klein-ternary --format mlx --pipeline mini-klein -o mini-klein-mlx
    """
    show = open_output(options)
    with shown_progress(show) as progress:
        manifest = run_export(pack, format=format_name, out=out, progress=progress, **options)
    show(views.exported(Path(out), manifest), next_step=next_steps.command("verify", out))
