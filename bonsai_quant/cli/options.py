"""Options that several commands share."""

from __future__ import annotations

import click

from bonsai_quant.conversion.settings import DEFAULT_SOURCE
from bonsai_quant.core.schema import MODES
from bonsai_quant.packs.formats import DEFAULT_FORMATS, FORMAT_NAMES
from bonsai_quant.quantization.solvers import SOLVER_NAMES

from . import completion
from .output import Command

RECIPE_HELP = "Path of a YAML recipe, or the name of a shipped one."

source = click.argument("source", default=DEFAULT_SOURCE, shell_complete=completion.model)
threads = click.option(
    "--threads", type=int, metavar="N", help="Number of threads [one for each core]."
)
max_memory = click.option(
    "--max-memory", type=int, metavar="BYTES", help="Refuse to start if more memory is needed."
)
overwrite_pack = click.option(
    "--overwrite", is_flag=True, help="Replace an earlier pack of this program."
)
overwrite = click.option("--overwrite", is_flag=True, help="Replace an earlier result.")
resume = click.option("--resume", is_flag=True, help="Continue an interrupted run.")
recipe = click.option(
    "--recipe", metavar="FILE", help=RECIPE_HELP, shell_complete=completion.recipe
)
mode = click.option(
    "--mode",
    metavar="MODE",
    help=f"Mode of the packs: {' or '.join(MODES)} [the recipe's].",
    shell_complete=completion.mode,
)
pipeline = click.option(
    "--pipeline",
    metavar="PIPELINE",
    help="Pipeline that lends a pack its text encoder and VAE [the pack's source].",
    shell_complete=completion.model,
)
prompts = click.option(
    "--prompts",
    metavar="FILE",
    help="File of training prompts, one a line [the shipped ones].",
    shell_complete=completion.file,
)


_CONVERSION = (
    mode,
    recipe,
    click.option(
        "--solver",
        metavar="NAME",
        help=f"How codes are chosen: {', '.join(SOLVER_NAMES)} [the recipe's].",
        shell_complete=completion.solver,
    ),
    click.option(
        "--calibration",
        metavar="FOLDER",
        help="Output folder of `calibrate`, for the solvers that need one.",
        shell_complete=completion.file,
    ),
    click.option(
        "--lora",
        multiple=True,
        metavar="FILE[:SCALE]",
        help="LoRA to merge before rounding; repeat for more.",
        shell_complete=completion.file,
    ),
    click.option(
        "--lora-partial",
        is_flag=True,
        help="Ignore the modules of a LoRA that this model does not have.",
    ),
    click.option(
        "-f",
        "--format",
        "formats",
        multiple=True,
        metavar="FORMAT",
        help=f"Format to write: {', '.join(FORMAT_NAMES)}; repeat or separate by commas "
        f"[{','.join(DEFAULT_FORMATS)}].",
        shell_complete=completion.format_name,
    ),
    click.option("--revision", help="Branch, tag or commit of SOURCE on the Hub."),
    threads,
    max_memory,
    click.option(
        "--transformer-only",
        is_flag=True,
        help="Write the transformer alone, without text encoder, VAE and so on.",
    ),
    click.option("--strict", is_flag=True, help="Treat warnings about SOURCE as errors."),
)


def conversion_options(command: Command) -> Command:
    """Add the options that decide what a conversion does."""
    for option in _CONVERSION:
        command = option(command)
    return command
