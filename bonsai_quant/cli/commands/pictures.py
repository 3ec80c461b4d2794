"""The commands generate, score, demo and doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bonsai_quant.cli.demo import demo as run_demo
from bonsai_quant.cli.doctor import doctor as run_doctor
from bonsai_quant.cli.output import common, open_output, progress_bar
from bonsai_quant.cli.views import packs as packs_view
from bonsai_quant.cli.views import pictures as pictures_view
from bonsai_quant.evaluation.score import score as run_score
from bonsai_quant.runners import RUNNERS
from bonsai_quant.runners.generate import generate as run_generate
from bonsai_quant.runners.generate import read_prompts


@click.command()
@click.argument("place", metavar="PACK_OR_PIPELINE")
@click.option("-p", "--prompt", "prompts", multiple=True, metavar="TEXT", help="Repeat for more.")
@click.option("--prompts", "file", metavar="FILE", help="One prompt a line.")
@click.option("-o", "--out", required=True, metavar="OUT", help="FILE.png, or a folder for more.")
@click.option("--seed", "seeds", multiple=True, type=int, metavar="N", help="Repeat for more [0].")
@click.option("--size", metavar="WxH", help="Multiples of 16 from 64 to 2048 [the pipeline's].")
@click.option("--image", "images", multiple=True, metavar="FILE", help="A picture to edit.")
@click.option("--steps", type=int, metavar="N", help="Denoising steps [the pipeline's, 4].")
@click.option("--backend", default="auto", show_default=True, help=f"{', '.join(RUNNERS)}.")
@click.option("--pipeline", metavar="P", help="Text encoder, VAE and so on of a pack [its source].")
@click.option("--max-memory", type=int, metavar="BYTES", help="Refuse if more is needed.")
@click.option("--unverified", is_flag=True, help="Run a pack whose files are not its manifest's.")
@click.option("--overwrite", is_flag=True, help="Replace earlier pictures.")
@common
def generate(
    place: str, prompts: tuple[str, ...], file: str | None, seeds: tuple[int, ...], **options: Any
) -> None:
    """Paint prompts with a pack or a pipeline.

    \b
    bonsai-quant generate packs -p "a red circle left of a blue square" -o circle.png
    bonsai-quant generate packs --prompts list.txt --seed 0 --seed 1 -o pictures
    """
    show = open_output(options)
    asked = [*prompts, *(read_prompts(Path(file)) if file else ())]
    with progress_bar("painting", show, unit=" steps") as progress:
        made = run_generate(place, asked, seeds=seeds or (0,), progress=progress, **options)
    show(pictures_view.generated(made))


@click.command()
@common
def doctor(**options: Any) -> None:
    """Show which parts work on this machine, and what to install for the others."""
    open_output(options)(packs_view.diagnosed(run_doctor()))


@click.command()
@click.argument("place", metavar="PACK_OR_PIPELINE")
@click.option("--against", metavar="SOURCE", help="Compare with this model, prompt by prompt.")
@click.option("--pipeline", metavar="P", help="Text encoder, VAE and so on of a pack [its source].")
@click.option("--split", default="test", show_default=True, help="test, or dev for choosing.")
@click.option("--prompts", default=100, show_default=True, help="Per category; there are six.")
@click.option("--images", default=4, show_default=True, help="Pictures of each prompt.")
@click.option("--seed", default=0, show_default=True, help="Of the noise that pictures start from.")
@click.option("--grid", metavar="FILE.png", help="Write examples with their captions.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier grid.")
@common
def score(place: str, **options: Any) -> None:
    """Paint captions and count the pictures that show what they say; needs torch and diffusers.

    \b
    bonsai-quant score mini-klein
    bonsai-quant score packs --against mini-klein --grid examples.png
    """
    show = open_output(options)
    with progress_bar("painting", show, unit=" pictures") as progress:
        result = run_score(place, progress=progress, **options)
    show(pictures_view.scored(result))


@click.command()
@click.option("-o", "--out", default="bonsai-demo", show_default=True, help="A new folder.")
@click.option("--seed", default=0, show_default=True, help="Of the noise that pictures start from.")
@common
def demo(out: str, seed: int, **options: Any) -> None:
    """Convert, verify, compare and score mini-klein, the model that comes with this program."""
    show = open_output(options)
    made = run_demo(
        out, seed=seed, say=lambda line: None if show.quiet else click.echo(f"- {line}", err=True)
    )
    show(pictures_view.demonstrated(made))
