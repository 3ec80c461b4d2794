"""The commands generate, score, demo and doctor."""

from __future__ import annotations

from typing import Any

import rich_click as click

from bonsai_quant.cli import completion, next_steps
from bonsai_quant.cli import options as shared
from bonsai_quant.cli.demo import demo as run_demo
from bonsai_quant.cli.doctor import doctor as run_doctor
from bonsai_quant.cli.help import Command
from bonsai_quant.cli.output import common_options, open_output, shown_progress
from bonsai_quant.cli.pack_argument import local_pack
from bonsai_quant.cli.types import OneOf, PictureSize, Whole
from bonsai_quant.cli.views import packs as packs_view
from bonsai_quant.cli.views import pictures as pictures_view
from bonsai_quant.cli.wishes import generate_arguments, warn_of_words
from bonsai_quant.evaluation.score import score as run_score
from bonsai_quant.runners import RUNNERS
from bonsai_quant.runners.generate import generate as run_generate
from bonsai_quant.runners.picture_settings import MAX_STEPS

model = click.argument(
    "model",
    type=shared.MODEL_OR_PACK,
    metavar="MODEL",
    shell_complete=completion.model_or_pack,
    help="A pack or a pipeline: a folder, an id on the Hub, mini-klein or mini-klein-ternary.",
)
noise_seed = shared.seed("Seed of the noise that pictures start from.")


@click.command(cls=Command, needs="prompts file like", first="prompts out seeds size file")
@model
@click.option(
    "-p",
    "--prompt",
    "prompts",
    multiple=True,
    metavar="TEXT",
    help="What to paint; repeat for more.",
)
@click.option(
    "--prompts",
    "file",
    metavar="FILE",
    help="File of prompts, one a line; - for standard input.",
    shell_complete=completion.file,
)
@click.option(
    "-o",
    "--out",
    metavar="OUT",
    help="FILE.png, or a folder for several pictures. [default: PROMPT-SEED.png]",
)
@click.option(
    "--seed",
    "seeds",
    multiple=True,
    metavar="N",
    help="Seed of the noise: N, 1-4, 1,5,9 or random; repeat for more. [default: 0]",
)
@click.option(
    "--count", type=Whole(), metavar="N", help="Pictures of each prompt, of seeds in a row."
)
@click.option(
    "--like",
    metavar="FILE.png",
    help="Picture whose prompt, seed, size and steps are taken, where they are not given.",
    shell_complete=completion.file,
)
@click.option(
    "--size",
    type=PictureSize(),
    metavar="WxH",
    help="Width and height: multiples of 16 from 64 to 2048. [default: the pipeline's]",
)
@click.option(
    "--image",
    "images",
    multiple=True,
    metavar="FILE",
    help="Picture to edit; repeat for more.",
    shell_complete=completion.file,
)
@click.option(
    "--steps",
    type=Whole(1, MAX_STEPS),
    metavar="N",
    help="Denoising steps. [default: the pipeline's, 4]",
)
@click.option(
    "--lora",
    multiple=True,
    metavar="FILE:SCALE",
    help="LoRA to run beside a pack's weights; repeat for more. Without :SCALE it counts 1.",
    shell_complete=completion.file,
)
@shared.lora_partial
@shared.choice(
    "--backend",
    default="auto",
    show_default=True,
    kind=OneOf("backend", ("auto", *RUNNERS)),
    help="What computes.",
)
@shared.pipeline
@shared.max_memory
@click.option(
    "--unverified", is_flag=True, help="Run a pack even if its files differ from its manifest."
)
@click.option("--save-steps", is_flag=True, help="Also write the picture as each step foresees it.")
@shared.resume
@click.option("--overwrite", is_flag=True, help="Replace earlier pictures.")
@common_options
def generate(model: str, **options: Any) -> None:
    """Paint pictures from prompts.

    \b
    bonsai-quant generate mini-klein-ternary -p "a red circle left of a blue square" -o circle.png
    # two pictures into a folder
    bonsai-quant generate mini-klein-ternary -p "a green triangle" --seed 0-1 -o pictures
    """
    show = open_output(options)
    asked = generate_arguments(**options)
    with shown_progress(show) as progress:
        place = local_pack(model, progress)
        warn_of_words(place, asked["pipeline"], asked["prompts"])
        result = run_generate(place, asked.pop("prompts"), progress=progress, **asked)
    last = result.pictures[-1].path
    show(pictures_view.generated(result), next_step=next_steps.command("inspect", last))


@click.command(cls=Command)
@common_options
def doctor(**options: Any) -> None:
    """Show what works here, and what to install.

    \b
    bonsai-quant doctor
    """
    answer = packs_view.diagnosed(run_doctor())
    open_output(options)(answer, next_step=next_steps.first_command())


@click.command(cls=Command, first="against prompts images grid out", resumes_with="out")
@model
@click.option(
    "--against",
    metavar="MODEL",
    type=shared.MODEL_OR_PACK,
    help="Model to compare with, prompt by prompt.",
    shell_complete=completion.model_or_pack,
)
@shared.pipeline
@shared.choice(
    "--split",
    default="test",
    show_default=True,
    kind=OneOf("split", ("test", "dev")),
    help="Captions to measure with; settings are chosen with dev.",
)
@click.option(
    "--prompts",
    type=Whole(),
    default=100,
    show_default=True,
    metavar="N",
    help="Captions in each of the six categories.",
)
@click.option(
    "--images",
    type=Whole(),
    default=4,
    show_default=True,
    metavar="N",
    help="Pictures of each caption.",
)
@noise_seed
@click.option(
    "--grid",
    metavar="FILE.png",
    help="File to write with examples and their captions.",
    shell_complete=completion.file,
)
@click.option(
    "-o",
    "--out",
    metavar="FOLDER",
    help="Folder that keeps each judgement, for --resume.",
    shell_complete=completion.file,
)
@shared.resume
@click.option("--overwrite", is_flag=True, help="Replace an earlier grid.")
@common_options
def score(model: str, **options: Any) -> None:
    """Measure how well a model paints.

    It paints captions, and counts the pictures that show what their caption says. This takes
    minutes: fewer --prompts and --images are quicker and less exact.

    \b
    # a first impression
    bonsai-quant score mini-klein-ternary --prompts 5 --images 1
    # how much of the source's ability is kept
    bonsai-quant score mini-klein-ternary --against mini-klein --grid examples.png
    """
    show = open_output(options)
    with shown_progress(show) as progress:
        result = run_score(local_pack(model, progress), progress=progress, **options)
    is_pack, against = result.format is not None, options["against"]
    show(pictures_view.scored(result), next_step=next_steps.after_score(model, is_pack, against))


@click.command(cls=Command)
@click.option(
    "-o",
    "--out",
    default="bonsai-demo",
    show_default=True,
    metavar="OUT",
    help="Output folder, a new one.",
)
@noise_seed
@common_options
def demo(out: str, seed: int, **options: Any) -> None:
    """Try everything on mini-klein, a small model.

    It plans, converts, verifies, compares and paints with the model that comes with this program.

    \b
    bonsai-quant demo -o bonsai-demo
    """
    show = open_output(options)

    def say(line: str) -> None:
        if not show.quiet:
            click.echo(f"- {line}", err=True)

    with shown_progress(show) as progress:
        result = run_demo(out, seed=seed, say=say, progress=progress)
    show(pictures_view.demonstrated(result), next_step=next_steps.first_command())
