"""The commands generate, score, demo and doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bonsai_quant.cli import completion
from bonsai_quant.cli import options as shared
from bonsai_quant.cli.demo import demo as run_demo
from bonsai_quant.cli.doctor import doctor as run_doctor
from bonsai_quant.cli.output import common_options, open_output, shown_progress
from bonsai_quant.cli.views import packs as packs_view
from bonsai_quant.cli.views import pictures as pictures_view
from bonsai_quant.evaluation.score import score as run_score
from bonsai_quant.runners import RUNNERS
from bonsai_quant.runners.generate import generate as run_generate
from bonsai_quant.runners.generate import read_prompts

model = click.argument("model", metavar="PACK_OR_PIPELINE", shell_complete=completion.model_or_pack)
noise_seed = click.option(
    "--seed", default=0, show_default=True, help="Seed of the noise that pictures start from."
)


@click.command()
@model
@click.option(
    "-p", "--prompt", "prompts", multiple=True, metavar="TEXT", help="Prompt; repeat for more."
)
@click.option(
    "--prompts",
    "file",
    metavar="FILE",
    help="File of prompts, one a line.",
    shell_complete=completion.file,
)
@click.option(
    "-o", "--out", required=True, metavar="OUT", help="FILE.png, or a folder for several pictures."
)
@click.option(
    "--seed", "seeds", multiple=True, type=int, metavar="N", help="Seed; repeat for more [0]."
)
@click.option(
    "--size", metavar="WxH", help="Size in multiples of 16, from 64 to 2048 [the pipeline's]."
)
@click.option(
    "--image",
    "images",
    multiple=True,
    metavar="FILE",
    help="Picture to edit; repeat for more.",
    shell_complete=completion.file,
)
@click.option("--steps", type=int, metavar="N", help="Denoising steps [the pipeline's, 4].")
@click.option(
    "--backend",
    default="auto",
    show_default=True,
    help=f"Runner: auto, {', '.join(RUNNERS)}.",
    shell_complete=completion.runner,
)
@shared.pipeline
@shared.max_memory
@click.option(
    "--unverified", is_flag=True, help="Run a pack even if its files differ from its manifest."
)
@click.option("--overwrite", is_flag=True, help="Replace earlier pictures.")
@common_options
def generate(
    model: str, prompts: tuple[str, ...], file: str | None, seeds: tuple[int, ...], **options: Any
) -> None:
    """Paint prompts with a pack or a pipeline.

    \b
    bonsai-quant generate packs -p "a red circle left of a blue square" -o circle.png
    bonsai-quant generate packs --prompts list.txt --seed 0 --seed 1 -o pictures
    """
    show = open_output(options)
    texts = [*prompts, *(read_prompts(Path(file)) if file else ())]
    with shown_progress(show) as progress:
        result = run_generate(model, texts, seeds=seeds or (0,), progress=progress, **options)
    show(pictures_view.generated(result))


@click.command()
@common_options
def doctor(**options: Any) -> None:
    """Show which parts work on this machine, and what to install for the others."""
    open_output(options)(packs_view.diagnosed(run_doctor()))


@click.command()
@model
@click.option(
    "--against",
    metavar="SOURCE",
    help="Model to compare with, prompt by prompt.",
    shell_complete=completion.model_or_pack,
)
@shared.pipeline
@click.option(
    "--split",
    default="test",
    show_default=True,
    help="Set of captions: test, or dev to choose settings with.",
    shell_complete=completion.one_of("test", "dev"),
)
@click.option(
    "--prompts", default=100, show_default=True, help="Captions in each of the six categories."
)
@click.option("--images", default=4, show_default=True, help="Pictures of each caption.")
@noise_seed
@click.option(
    "--grid",
    metavar="FILE.png",
    help="File to write with examples and their captions.",
    shell_complete=completion.file,
)
@click.option("--overwrite", is_flag=True, help="Replace an earlier grid.")
@common_options
def score(model: str, **options: Any) -> None:
    """Paint captions and count the pictures that show what they say; needs torch and diffusers.

    \b
    bonsai-quant score mini-klein
    bonsai-quant score packs --against mini-klein --grid examples.png
    """
    show = open_output(options)
    with shown_progress(show) as progress:
        result = run_score(model, progress=progress, **options)
    show(pictures_view.scored(result))


@click.command()
@click.option(
    "-o", "--out", default="bonsai-demo", show_default=True, help="Output folder, a new one."
)
@noise_seed
@common_options
def demo(out: str, seed: int, **options: Any) -> None:
    """Convert, verify, compare and score mini-klein, the model that comes with this program."""
    show = open_output(options)
    result = run_demo(
        out, seed=seed, say=lambda line: None if show.quiet else click.echo(f"- {line}", err=True)
    )
    show(pictures_view.demonstrated(result))
