"""The command line: parse, call one function, print. Nothing is decided here."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click

from . import answers, ending
from .checks import Checks
from .convert import convert as run_convert
from .demo import demo as run_demo
from .diff import diff as run_diff
from .doctor import doctor as run_doctor
from .errors import EnvironmentFault
from .export import export as run_export
from .inspect import inspect as run_inspect
from .plan import explain
from .plan import plan as run_plan
from .schema import (
    DEFAULT_FORMATS,
    FORMAT_NAMES,
    SCHEMA_VERSION,
    SOLVER_NAMES,
    Progress,
    no_progress,
)
from .settings import DEFAULT_SOURCE, MODES
from .verify import BACKENDS, LEVELS
from .verify import verify as run_verify
from .version import TOOL, __version__

Command = Callable[..., Any]
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def common(command: Command) -> Command:
    """The manners that every command has."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
        click.option("--quiet", is_flag=True, help="Print errors only."),
        click.option("-v", "--verbose", is_flag=True, help="Say what is found and chosen."),
        click.option("--debug", is_flag=True, help="Show tracebacks."),
    ):
        command = option(command)
    return command


def choosing(command: Command) -> Command:
    """The options that decide what a conversion does."""
    for option in (
        click.option("--mode", metavar="MODE", help=f"{' or '.join(MODES)}."),
        click.option("--recipe", metavar="FILE", help="A YAML recipe, or a shipped one's name."),
        click.option("--solver", metavar="NAME", help=f"{', '.join(SOLVER_NAMES)}."),
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
    """Convert SOURCE (a file, a folder or a Hub id) into packs: OUT/bonsai, OUT/mlx, OUT/gemlite.

    \b
    bonsai-quant convert FLUX.2-klein-4B --mode ternary -o packs
    bonsai-quant convert my-finetune.safetensors --recipe my.yaml --format mlx
    """
    show = _manners(options)
    options["formats"] = options["formats"] or DEFAULT_FORMATS
    if dry_run:
        show(answers.planned(run_plan(source, **options)))
        return
    with _bar("converting", show) as progress:
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
    show = _manners(options)
    options["formats"] = options["formats"] or DEFAULT_FORMATS
    made = run_plan(source, **options)
    show(answers.explained(explain(made, name)) if name else answers.planned(made))


@cli.command()
@click.argument("pack")
@click.option(
    "-f", "--format", "format_name", required=True, metavar="F", help=f"{', '.join(FORMAT_NAMES)}."
)
@click.option("-o", "--out", required=True, metavar="OUT", help="Output folder.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier pack of this program.")
@click.option("--threads", type=int, metavar="N", help="Threads [all cores].")
@common
def export(
    pack: str, format_name: str, out: str, overwrite: bool, threads: int | None, **options: Any
) -> None:
    """Write PACK in another format; no source is needed and nothing is rounded.

    \b
    bonsai-quant export packs/bonsai --format unpacked -o dense
    """
    show = _manners(options)
    with _bar("exporting", show) as progress:
        manifest = run_export(
            pack,
            format=format_name,
            out=out,
            overwrite=overwrite,
            threads=threads,
            progress=progress,
        )
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
    _manners(options)(answers.inspected(run_inspect(path), tensors))


@cli.command()
@click.argument("pack")
@click.option("--against", metavar="SOURCE", help="Quantize SOURCE again and compare.")
@click.option("--level", default="codes", show_default=True, help=f"{', '.join(LEVELS)}.")
@click.option("--backend", "backends", multiple=True, help=f"{', '.join(BACKENDS)} [all].")
@click.option("--layers", default=3, show_default=True, help="Layers that each kernel is run on.")
@click.option("--threads", type=int, metavar="N", help="Threads [all cores].")
@common
def verify(pack: str, backends: tuple[str, ...], **options: Any) -> None:
    """Prove that PACK is right; exits with 5 at the first wrong thing.

    \b
    bonsai-quant verify packs --against FLUX.2-klein-4B
    bonsai-quant verify packs --level kernel
    """
    show = _manners(options)
    with _bar("verifying", show) as progress:
        verdict = run_verify(pack, backends=backends or BACKENDS, progress=progress, **options)
    show(answers.verified(verdict))
    if verdict.failed:
        sys.exit(5)


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
    show = _manners(options)
    with _bar("comparing", show) as progress:
        result = run_diff(a, b, threads=threads, progress=progress)
    show(answers.compared(result, top))


@cli.command()
@common
def doctor(**options: Any) -> None:
    """Show which parts work on this machine, and what to install for the others."""
    _manners(options)(answers.diagnosed(run_doctor()))


@cli.command()
@click.option("-o", "--out", default="bonsai-demo", show_default=True, help="A new folder.")
@click.option("--seed", default=0, show_default=True, help="Of the random weights.")
@common
def demo(out: str, seed: int, **options: Any) -> None:
    """Run plan, convert, verify, inspect and diff on a small model made on the spot."""
    show = _manners(options)
    made = run_demo(
        out, seed=seed, say=lambda line: None if show.quiet else click.echo(f"- {line}", err=True)
    )
    show(answers.demonstrated(made))


class Show:
    """Prints an answer: text for people, or one JSON object."""

    def __init__(self, as_json: bool, quiet: bool) -> None:
        self.as_json, self.quiet = as_json, quiet

    def __call__(self, answer: answers.Answer) -> None:
        """Print one answer."""
        data = {"schema_version": SCHEMA_VERSION} | answer.data
        try:
            if self.as_json or not self.quiet:
                click.echo(json.dumps(data, indent=2) if self.as_json else answer.text)
        except OSError as e:
            raise EnvironmentFault(
                f"the answer could not be printed: {e.strerror}", hint="the work itself is done"
            ) from e


def _manners(options: dict[str, Any]) -> Show:
    """Take the common options out, set the log up, and return the printer."""
    as_json, quiet = options.pop("as_json"), options.pop("quiet")
    verbose, _ = options.pop("verbose"), options.pop("debug")
    level = logging.INFO if verbose else logging.ERROR if quiet else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr, force=True)
    return Show(as_json, quiet)


@contextmanager
def _bar(doing: str, show: Show) -> Iterator[Progress]:
    """A progress bar on stderr, on a terminal only: bytes, tensors, time left."""
    if show.quiet or show.as_json or not sys.stderr.isatty():
        yield no_progress
        return
    from tqdm import tqdm

    with tqdm(desc=doing, unit="B", unit_scale=True, leave=False) as bar:
        done = 0

        def progress(n_bytes: int, n_tensors: int, total_bytes: int) -> None:
            nonlocal done
            done += n_tensors
            bar.total = total_bytes
            bar.update(n_bytes)
            bar.set_postfix_str(f"{done} tensors", refresh=False)

        yield progress


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
