"""What to type next: the command that an answer ends with, made of what was typed and written."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from bonsai_quant.core.errors import BonsaiError
from bonsai_quant.core.requirements import LOOK, MLX, RUN, missing
from bonsai_quant.core.shell import command_line
from bonsai_quant.core.version import TOOL
from bonsai_quant.packs.find import find_packs
from bonsai_quant.packs.inspect import Inspection
from bonsai_quant.packs.pipeline import locate
from bonsai_quant.runners.picture_settings import NAME as BENCHMARK

PROMPT = "a red circle left of a blue square"
"""Of mini-klein's world, and easy for every other model."""
REPO = "YOUR-NAME"


def command(*words: object) -> str:
    """A command line of this program, quoted for a shell and printable."""
    return command_line(TOOL, *words)


def typed(name: str = "", *, without: Sequence[str] = ()) -> str:
    """The command line that was typed, under another name and without some parameters.

    `--json` and its like are left out.
    """
    context = click.get_current_context()
    words: list[object] = [name or context.info_name or ""]
    left_out = {*without, "as_json", "quiet", "verbose", "debug"}
    for param in context.command.params:
        source = context.get_parameter_source(param.name or "")
        if param.name not in left_out and source == ParameterSource.COMMANDLINE:
            words += _spelled(param, context.params[param.name or ""])
    return command(*words)


def _spelled(param: click.Parameter, value: Any) -> list[object]:
    values = list(value) if isinstance(value, list | tuple) else [value]
    if isinstance(param, click.Argument):
        return values
    option = max(param.opts, key=len)
    if isinstance(param, click.Option) and param.is_flag:
        return [option] if value else []
    return [word for v in values for word in (option, v)]


def after_convert(out: Path, source: str) -> str:
    """Prove it against its source, with what was typed to guide or change it."""
    params = click.get_current_context().params
    if revision := params.get("revision"):
        source = f"{source.partition('@')[0]}@{revision}"
    words: list[object] = ["verify", out, "--against", source]
    if calibration := params.get("calibration"):
        words += ["--calibration", calibration]
    for lora in params.get("lora") or ():
        words += ["--lora", lora]
    return command(*words)


def after_verify(pack: str, failed: bool, lender: str | None) -> str:
    """Paint with it, or send it where it cannot paint alone; look at it when it is wrong.

    lender: of a text encoder and so on, if one was named.
    """
    if failed:
        return command("inspect", pack)
    places = [pack, *(str(f.path) for f in find_packs(Path(pack)) if Path(pack).exists())]
    for pipeline in (None, lender) if lender else (None,):
        for place in places:
            if _paints(place, pipeline):
                return paint(place, *(("--pipeline", pipeline) if pipeline else ()))
    return send(pack)


def _paints(place: str, pipeline: str | None) -> bool:
    """Whether all that a picture takes is on this machine."""
    try:
        locate(place, pipeline=pipeline)
    except (BonsaiError, OSError):
        return False
    return True


def paint(model: object, *more: object) -> str:
    """A first picture."""
    return command("generate", model, "-p", PROMPT, *more)


def send(pack: str, *more: object) -> str:
    """What publishing the first pack there would do."""
    found = find_packs(Path(pack))
    folder = found[0].path if found and Path(pack).exists() else Path(pack)
    return command("publish", folder, f"{REPO}/{Path(pack).resolve().name}", *more, "-n")


def after_inspect(path: str, found: Sequence[Inspection]) -> str:
    """What its kind is for."""
    kind = found[0].kind if found else ""
    if kind == "pack":
        return command("verify", path)
    if kind == "checkpoint":
        return command("plan", path, "--mode", "ternary")
    if kind == "picture":
        return command("generate", "mini-klein-ternary", "--like", path, "--seed", "random")
    return command("inspect", path, "--tensors")


def after_score(model: str, is_pack: bool, against: str | None) -> str:
    """A page about a pack; a pack, where there is none yet."""
    if not is_pack:
        return command("convert", model, "--mode", "ternary", "-o", "packs")
    more = ("--against", against) if against else ()
    return command("report", model, *more, "-o", "report")


def after_report(out: Path, pack: str) -> str:
    """Open the page; where nothing can show it, the report goes with the pack."""
    for opener in ("open", "xdg-open"):
        if shutil.which(opener):
            return command_line(opener, str(out / "report.html"))
    return send(pack, "--report", out)


def after_calibrate(source: str, mode: str | None, solver: str | None, out: Path) -> str:
    """Round with it."""
    return command(
        "convert", source, "--mode", mode or "ternary", "--solver", solver or "weighted",
        "--calibration", out, "-o", "packs",
    )  # fmt: skip


def after_recover(source: str, out: Path) -> str:
    """Measure what was won, where the source says how; else look at what would be sent."""
    if _paints(source, None) and (locate(source).folder / BENCHMARK).is_file():
        return command("score", out, "--against", source)
    return send(str(out))


def first_command() -> str:
    """What works on this machine and shows most."""
    if not missing((*RUN, *LOOK)) or not missing((*MLX, *LOOK)):
        return paint("mini-klein-ternary")
    return command("convert", "mini-klein", "--mode", "ternary", "-o", "packs")
