"""Options that several commands share."""

from __future__ import annotations

import click

from bonsai_quant.core.schema import DEFAULT_FORMATS, FORMAT_NAMES, MODES
from bonsai_quant.quantization.solvers import SOLVER_NAMES

from .output import Command

MERGED = "A LoRA to merge before rounding; repeat for more."


def choosing(command: Command) -> Command:
    """The options that decide what a conversion does."""
    for option in (
        click.option("--mode", metavar="MODE", help=f"{' or '.join(MODES)}."),
        click.option("--recipe", metavar="FILE", help="A YAML recipe, or a shipped one's name."),
        click.option("--solver", metavar="NAME", help=f"{', '.join(SOLVER_NAMES)}."),
        click.option("--calibration", metavar="FOLDER", help="What `calibrate` made."),
        click.option("--lora", multiple=True, metavar="FILE[:SCALE]", help=MERGED),
        click.option("--lora-partial", is_flag=True, help="Leave out a LoRA's other modules."),
        click.option(
            "-f",
            "--format",
            "formats",
            multiple=True,
            metavar="F",
            help=f"{', '.join(FORMAT_NAMES)}; repeat or separate by commas "
            f"[{','.join(DEFAULT_FORMATS)}].",
        ),
        click.option("--revision", help="Branch, tag or commit on the Hub."),
        click.option("--threads", type=int, metavar="N", help="Threads that solve [all cores]."),
        click.option("--max-memory", type=int, metavar="BYTES", help="Refuse if more is needed."),
        click.option("--transformer-only", is_flag=True, help="No other parts beside the weights."),
        click.option("--strict", is_flag=True, help="Take warnings about the source as errors."),
    ):
        command = option(command)
    return command
