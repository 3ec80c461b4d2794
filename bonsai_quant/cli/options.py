"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import Any

import rich_click as click

from bonsai_quant.conversion.settings import DEFAULT_SOURCE, shipped_recipes
from bonsai_quant.core.schema import MODES
from bonsai_quant.core.threads import MAX_THREADS
from bonsai_quant.packs.formats import DEFAULT_FORMATS, FORMAT_NAMES
from bonsai_quant.quantization.solvers import SOLVER_NAMES
from bonsai_quant.runners.prompts import MAX_SEED
from bonsai_quant.sources.shipped import NAMES, PACKS
from bonsai_quant.verification.levels import LEVELS

from . import completion
from .output import Command
from .types import ByteSize, OneOf, Place, Whole


def choice(*names: str, kind: OneOf, help: str, unset: str = "", **options: Any) -> Command:
    """An option that takes one of some names, or several, which its help lists.

    unset: what holds when it is not given, for the help.
    """
    text = f"{help} {kind.choices}" + (f" [default: {unset}]" if unset else "")
    return click.option(*names, type=kind, help=text, **options)


def seed(help: str) -> Command:
    """The option --seed of commands that take one; their help says what it is the seed of."""
    return click.option(
        "--seed",
        type=Whole(0, MAX_SEED),
        default=0,
        show_default=True,
        metavar="N",
        help=help,
    )


MODEL = Place("model", NAMES)
PACK = Place("pack", PACKS)
MODEL_OR_PACK = Place("model or pack", (*NAMES, *PACKS))
RECIPE = Place("recipe", shipped_recipes)

source = click.argument(
    "source",
    default=DEFAULT_SOURCE,
    type=MODEL,
    shell_complete=completion.model,
    help="The model in full precision: a folder, a .safetensors file, a Hub id, or mini-klein. "
    f"[default: {DEFAULT_SOURCE}, from the Hub]",
)
pack = click.argument(
    "pack",
    type=PACK,
    shell_complete=completion.pack,
    help="A pack, a folder of packs in several formats, or mini-klein-ternary, mini-klein-binary.",
)
threads = click.option(
    "--threads",
    type=Whole(1, MAX_THREADS),
    metavar="N",
    help="Number of threads. [default: one for each core]",
)
max_memory = click.option(
    "--max-memory",
    type=ByteSize(),
    metavar="SIZE",
    help="Refuse to start if more memory is needed, such as 6GB or 5.5GiB.",
)
overwrite_pack = click.option(
    "--overwrite", is_flag=True, help="Replace an earlier pack of this program."
)
overwrite = click.option("--overwrite", is_flag=True, help="Replace an earlier result.")
resume = click.option("--resume", is_flag=True, help="Continue an interrupted run.")
recipe = click.option(
    "--recipe",
    metavar="RECIPE",
    type=RECIPE,
    help="A YAML file, or the name of a shipped recipe such as klein-4b-ternary.",
    shell_complete=completion.recipe,
)
mode = choice(
    "--mode",
    kind=OneOf("mode", MODES),
    help="Weights of -1, 0, +1 or of -1, +1; needed without --recipe.",
)
pipeline = click.option(
    "--pipeline",
    metavar="PIPELINE",
    type=MODEL,
    help="Pipeline that lends the pack its text encoder and VAE. [default: the pack's source]",
    shell_complete=completion.model,
)
prompts = click.option(
    "--prompts",
    metavar="FILE",
    help="File of training prompts, one a line. [default: those that come with the program]",
    shell_complete=completion.file,
)
formats = choice(
    "-f",
    "--format",
    "formats",
    multiple=True,
    kind=OneOf("format", FORMAT_NAMES, listed=True),
    help="Format to write; repeat for more.",
    unset=", ".join(DEFAULT_FORMATS),
)
level = choice(
    "--level",
    default="codes",
    show_default=True,
    kind=OneOf("level", LEVELS),
    help="Last level to check; each includes those before it.",
)
against = click.option(
    "--against",
    metavar="SOURCE",
    type=MODEL,
    help="Model in full precision to compare with.",
    shell_complete=completion.model,
)
lora = click.option(
    "--lora",
    multiple=True,
    metavar="FILE:SCALE",
    help="LoRA to merge before rounding; repeat for more. Without :SCALE it is merged with 1.",
    shell_complete=completion.file,
)
lora_partial = click.option(
    "--lora-partial",
    is_flag=True,
    help="Ignore the modules of a LoRA that this model does not have.",
)

_CONVERSION = (
    mode,
    recipe,
    choice(
        "--solver",
        kind=OneOf("solver", SOLVER_NAMES),
        help="How codes and scales are chosen.",
        unset="the recipe's",
    ),
    click.option(
        "--calibration",
        metavar="FOLDER",
        help="Output folder of calibrate, for the solvers weighted and gptq.",
        shell_complete=completion.file,
    ),
    lora,
    lora_partial,
    formats,
    click.option(
        "--transformer-only",
        is_flag=True,
        help="Write the transformer alone, without text encoder, VAE and so on.",
    ),
    click.option(
        "--revision", metavar="REVISION", help="Branch, tag or commit of SOURCE on the Hub."
    ),
    threads,
    max_memory,
    click.option("--strict", is_flag=True, help="Treat warnings about SOURCE as errors."),
)


def conversion_options(command: Command) -> Command:
    """Add the options that decide what a conversion does."""
    for option in reversed(_CONVERSION):
        command = option(command)
    return command
