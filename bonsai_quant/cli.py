"""The command line: parse, call one function, print. Nothing is decided here."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

import click

from . import answers, ending
from .checks import Checks
from .cli_hub import HUB_COMMANDS
from .cli_training import TRAINING_COMMANDS
from .convert import convert as run_convert
from .demo import demo as run_demo
from .diff import diff as run_diff
from .doctor import doctor as run_doctor
from .export import export as run_export
from .generate import generate as run_generate
from .generate import read_prompts
from .inspect import inspect as run_inspect
from .manners import Command, common, manners, progress_bar
from .plan import explain
from .plan import plan as run_plan
from .report import report as run_report
from .runners import RUNNERS
from .schema import DEFAULT_FORMATS, FORMAT_NAMES, SOLVER_NAMES
from .score import score as run_score
from .settings import DEFAULT_SOURCE, MODES
from .verify import BACKENDS, LEVELS
from .verify import verify as run_verify
from .version import TOOL, __version__

MERGED = "A LoRA to merge before rounding; repeat for more."
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


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


@click.group(context_settings=CONTEXT)
@click.version_option(__version__, prog_name=TOOL)
def cli() -> None:
    """FLUX.2 Klein to 1-bit and ternary packs, proved right.

    \b
    bonsai-quant convert FOLDER --mode ternary -o packs
    bonsai-quant verify packs --against FOLDER
    """


@cli.command()
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
    show = manners(options)
    options["formats"] = options["formats"] or DEFAULT_FORMATS
    if dry_run:
        show(answers.planned(run_plan(source, **options)))
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
    show(answers.converted(made))


@cli.command()
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
    show = manners(options)
    options["formats"] = options["formats"] or DEFAULT_FORMATS
    made = run_plan(source, **options)
    show(answers.explained(explain(made, name)) if name else answers.planned(made))


@cli.command()
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
    show = manners(options)
    with progress_bar("exporting", show) as progress:
        manifest = run_export(pack, format=format_name, out=out, progress=progress, **options)
    show(answers.exported(Path(out), manifest))


@cli.command()
@click.argument("path")
@click.option("--tensors", is_flag=True, help="List every stored tensor.")
@common
def inspect(path: str, tensors: bool, **options: Any) -> None:
    """Show what is in a checkpoint, or in a pack of any format, ours or published by others.

    \b
    bonsai-quant inspect packs/mlx --tensors
    """
    manners(options)(answers.inspected(run_inspect(path), tensors))


@cli.command()
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
    show = manners(options)
    with progress_bar("verifying", show) as progress:
        verdict = run_verify(pack, backends=backends or BACKENDS, progress=progress, **options)
    show(answers.verified(verdict))
    if verdict.failed:
        sys.exit(5)


@cli.command()
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
    show = manners(options)
    asked = [*prompts, *(read_prompts(Path(file)) if file else ())]
    with progress_bar("painting", show, unit=" steps") as progress:
        made = run_generate(place, asked, seeds=seeds or (0,), progress=progress, **options)
    show(answers.generated(made))


@cli.command()
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
    show = manners(options)
    with progress_bar("reading", show) as progress:
        made = run_report(packs, progress=progress, **options)
    show(answers.reported(made))


@cli.command()
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
    show = manners(options)
    with progress_bar("comparing", show) as progress:
        result = run_diff(a, b, threads=threads, progress=progress)
    show(answers.compared(result, top))


@cli.command()
@common
def doctor(**options: Any) -> None:
    """Show which parts work on this machine, and what to install for the others."""
    manners(options)(answers.diagnosed(run_doctor()))


@cli.command()
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
    show = manners(options)
    with progress_bar("painting", show, unit=" pictures") as progress:
        result = run_score(place, progress=progress, **options)
    show(answers.scored(result))


@cli.command()
@click.option("-o", "--out", default="bonsai-demo", show_default=True, help="A new folder.")
@click.option("--seed", default=0, show_default=True, help="Of the noise that pictures start from.")
@common
def demo(out: str, seed: int, **options: Any) -> None:
    """Convert, verify, compare and score mini-klein, the model that comes with this program."""
    show = manners(options)
    made = run_demo(
        out, seed=seed, say=lambda line: None if show.quiet else click.echo(f"- {line}", err=True)
    )
    show(answers.demonstrated(made))


for command in (*TRAINING_COMMANDS, *HUB_COMMANDS):
    cli.add_command(command)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with the documented code."""
    given = sys.argv[1:] if arguments is None else arguments
    ending.fill_standard_streams()
    with ending.stopping_on_signals():
        try:
            code = cli.main(given, prog_name=TOOL, standalone_mode=False)
            code = code if isinstance(code, int) else 0
        except BaseException as e:  # noqa: BLE001 - here every failure becomes a code
            if "--debug" in given and not isinstance(e, SystemExit):
                traceback.print_exception(e)
            code = ending.explain(e)
        ending.leave(code)
