"""Pictures from prompts: a pack or a pipeline through one of the runners, into PNG files."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bonsai_quant.core.errors import BadInput, OutputExists, UsageError, VerificationFailed
from bonsai_quant.core.memory import resident
from bonsai_quant.core.progress import Progress, no_progress
from bonsai_quant.core.requirements import LOOK, require
from bonsai_quant.core.schema import PictureSettings
from bonsai_quant.core.version import TOOL, __version__
from bonsai_quant.packs.integrity import listed_weights, require_whole
from bonsai_quant.packs.pipeline import Pipeline, locate
from bonsai_quant.storage import fs
from bonsai_quant.storage.small_file import make_folder, write_file

from . import open_runner
from .edit_images import read_picture
from .memory_need import check_memory
from .picture_settings import MAX_STEPS, read_benchmark
from .png import encode_png
from .runner import Runner, Stage, paint
from .sampling import PIXELS
from .text import load_tokenizer, token_counts

MIN_SIDE, MAX_SIDE = 64, 2048
"""Pixels of a side."""
MAX_PROMPTS = 10_000
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture and where it went."""

    path: Path
    prompt: str
    seed: int


@dataclass(frozen=True, slots=True)
class Generated:
    """The result of `generate`. at_rest: bytes of the process before anything was loaded."""

    pictures: tuple[Picture, ...]
    runner: str
    settings: PictureSettings
    at_rest: int
    stages: tuple[Stage, ...]


def generate(
    place: str | Path,
    prompts: Sequence[str],
    *,
    out: str | Path,
    seeds: Sequence[int] = (0,),
    size: str | None = None,
    steps: int | None = None,
    images: Sequence[str | Path] = (),
    backend: str = "auto",
    pipeline: str | None = None,
    max_memory: int | None = None,
    unverified: bool = False,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Generated:
    """Paint every prompt from every seed.

    place: a pack, a pipeline's folder, or a shipped model's name.  out: FILE.png for one picture,
    a folder for more.  size: WIDTHxHEIGHT [what the pipeline is meant for, else 512x512].
    images: pictures that the prompts refer to, for editing.
    pipeline: the other parts of a pack [its source].  max_memory: refuse to load more bytes.
    unverified: run a pack whose files are not those of its manifest.  progress: of steps.
    """
    pairs = [(p, s) for p in _prompts(prompts) for s in _seeds(seeds)]
    files = _files(Path(out), len(pairs), overwrite)
    located = replace(locate(str(place), pipeline=pipeline), unverified=unverified)
    settings = choose_settings(located, size, steps)
    runner = open_runner(located, backend)
    require(LOOK, "run")
    references = [read_picture(Path(i)) for i in images]
    _require_whole(located)
    _warn_of_long(located, [p for p, _ in pairs], settings.max_sequence_length)
    at_rest = resident()
    check_memory(located, settings, at_rest, max_memory)
    make_folder(files[0].parent)
    painting = paint(
        runner, [p for p, _ in pairs], [s for _, s in pairs], settings,
        images=references, progress=progress,
    )  # fmt: skip
    for (prompt, seed), path, pixels in zip(pairs, files, painting.pictures, strict=True):
        parameters = describe(located, runner, prompt, seed, settings)
        write_file(path, encode_png(pixels, parameters), overwrite=overwrite)
    pictures = tuple(Picture(f, p, s) for (p, s), f in zip(pairs, files, strict=True))
    return Generated(pictures, runner.name, settings, at_rest, painting.stages)


def read_prompts(path: Path) -> list[str]:
    """One prompt a line; empty lines are left out."""
    try:
        lines = fs.read_small(path).decode().splitlines()
    except UnicodeDecodeError as e:
        raise BadInput("is not UTF-8 text", where=str(path), hint="save it as UTF-8") from e
    return [line.strip() for line in lines if line.strip()]


def _prompts(prompts: Sequence[str]) -> list[str]:
    if not prompts or not all(p.strip() for p in prompts):
        raise UsageError("a prompt is empty", hint='pass -p "what the picture shows"')
    if len(prompts) > MAX_PROMPTS:
        raise UsageError(f"{len(prompts)} prompts; at most {MAX_PROMPTS} in one run")
    return list(prompts)


def _seeds(seeds: Sequence[int]) -> list[int]:
    for seed in seeds:
        if not 0 <= seed < 2**63:
            raise UsageError(f"seed {seed} is not between 0 and 2^63 - 1")
    return list(seeds)


def _files(out: Path, n: int, overwrite: bool) -> list[Path]:
    """Where the pictures go; refused before anything is loaded if one of them is there."""
    if n == 1 and out.suffix.lower() == ".png":
        files = [out]
    elif out.suffix:
        raise UsageError(
            f"{out} is no folder for {n} pictures" if n > 1 else f"{out} is no .png file",
            hint="name a folder, or FILE.png for a single picture",
        )
    else:
        files = [out / f"{i:04d}.png" for i in range(n)]
    for f in files:
        if f.exists() and not overwrite:
            raise OutputExists("exists already", where=str(f), hint="pass --overwrite")
    return files


def choose_settings(pipeline: Pipeline, size: str | None, steps: int | None) -> PictureSettings:
    """The pipeline's own settings, with what was asked for in place of some."""
    settings = read_benchmark(pipeline.folder).settings
    if size is not None:
        width, height = _size(size)
        settings = replace(settings, width=width, height=height)
    if steps is not None:
        if not 1 <= steps <= MAX_STEPS:
            raise UsageError(f"{steps} steps; give 1 to {MAX_STEPS}")
        settings = replace(settings, num_inference_steps=steps)
    return settings


def _size(size: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})(?:[xX](\d{1,5}))?", size)
    width, height = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if any(n % PIXELS or not MIN_SIDE <= n <= MAX_SIDE for n in (width, height)):
        raise UsageError(
            f"size {size[:40]!r}",
            hint=f"give WIDTHxHEIGHT, each a multiple of {PIXELS} from {MIN_SIDE} to {MAX_SIDE}",
        )
    return width, height


def _require_whole(pipeline: Pipeline) -> None:
    """Refuse a pack whose files are not those of its manifest, unless told to run it."""
    if pipeline.pack is None or pipeline.unverified:
        return
    if listed_weights(pipeline.pack) is None:
        log.warning("%s: made by another program; nothing to check its weights with", pipeline.name)
    try:
        require_whole(pipeline.pack)
    except VerificationFailed as e:
        e.hint = "fetch or convert it again; --unverified runs it as it is"
        raise


def _warn_of_long(pipeline: Pipeline, prompts: Sequence[str], length: int) -> None:
    tokenizer, prompts = load_tokenizer(pipeline.part("tokenizer")), list(dict.fromkeys(prompts))
    for prompt, n in zip(prompts, token_counts(tokenizer, prompts), strict=True):
        if n > length:
            log.warning(
                "%r: %d tokens with its template; the last %d are not read",
                prompt[:60], n, n - length,
            )  # fmt: skip


def describe(
    pipeline: Pipeline, runner: Runner, prompt: str, seed: int, settings: PictureSettings
) -> dict[str, Any]:
    """The model, prompt and settings of a picture, for its metadata."""
    facts: dict[str, Any] = {
        "prompt": prompt, "seed": seed, **asdict(settings),
        "runner": runner.name, "computes": runner.computes, "made_by": f"{TOOL} {__version__}",
    }  # fmt: skip
    pack = pipeline.pack
    if pack is None:
        return facts | {"model": pipeline.name}
    facts |= {"mode": pack.info.mode, "format": pack.format.name, "base": pack.info.base}
    if pack.manifest:
        path = pack.path.relative_to(pack.folder).as_posix()
        digest = next((f.sha256 for f in pack.manifest.files if f.path == path), None)
        facts |= {"source": pack.manifest.source.id, "weights_sha256": digest}
    return facts
