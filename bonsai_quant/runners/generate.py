"""Pictures from prompts: a pack or a pipeline through one of the runners, into PNG files."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bonsai_quant.core.errors import UsageError, VerificationFailed
from bonsai_quant.core.memory import resident
from bonsai_quant.core.progress import Progress, no_progress
from bonsai_quant.core.requirements import LOOK, require
from bonsai_quant.core.schema import PictureSettings
from bonsai_quant.core.version import TOOL, __version__
from bonsai_quant.packs.integrity import listed_weights, require_whole
from bonsai_quant.packs.picture_facts import texts
from bonsai_quant.packs.pipeline import Pipeline, locate
from bonsai_quant.packs.provenance import lora_record
from bonsai_quant.storage import fs

from . import open_runner
from .album import Album
from .edit_images import read_picture
from .loras import with_loras
from .memory_meter import Stage
from .memory_need import check_memory
from .picture_settings import MAX_STEPS, read_benchmark
from .png import encode_png
from .prompts import MAX_PICTURES, check_prompts, check_seeds
from .runner import Finished, Runner, paint_each
from .sampling import PIXELS
from .text import load_tokenizer, token_counts

MIN_SIDE, MAX_SIDE = 64, 2048
"""Pixels of a side."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture and where it is."""

    path: Path
    prompt: str
    seed: int


@dataclass(frozen=True, slots=True)
class Generated:
    """The result of `generate`. at_rest: bytes of the process before anything was loaded.

    kept: how many of the pictures an earlier run had painted, with `resume`.
    """

    pictures: tuple[Picture, ...]
    runner: str
    settings: PictureSettings
    at_rest: int
    stages: tuple[Stage, ...]
    kept: int = 0


def generate(
    place: str | Path,
    prompts: Sequence[str],
    *,
    out: str | Path | None = None,
    seeds: Sequence[int] = (0,),
    size: str | None = None,
    steps: int | None = None,
    images: Sequence[str | Path] = (),
    backend: str = "auto",
    pipeline: str | None = None,
    lora: Sequence[str] | str = (),
    lora_partial: bool = False,
    max_memory: int | None = None,
    unverified: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    save_steps: bool = False,
    progress: Progress = no_progress,
) -> Generated:
    """Paint every prompt from every seed; each picture is written when it is painted.

    place: a pack, a pipeline's folder, or a shipped model's name.  out: FILE.png for one picture,
    a folder for more, which gets an index.json, or None for PROMPT-SEED.png in the current folder.
    size: WIDTHxHEIGHT [what the pipeline is meant for, else 512x512].
    images: pictures that the prompts refer to, for editing.
    pipeline: the other parts of a pack [its source].
    lora: FILE or FILE:SCALE each, run beside a pack's weights.
    lora_partial: leave out what those files hold for other models.
    max_memory: refuse to load more bytes.
    unverified: run a pack whose files are not those of its manifest.
    resume: paint only what the folder lacks.  save_steps: also write what each step foresees.
    progress: told of the components, and of every step.
    """
    wishes = [(p, s) for p in check_prompts(prompts) for s in check_seeds(seeds)]
    if len(wishes) > MAX_PICTURES:
        raise UsageError(f"{len(wishes)} pictures; at most {MAX_PICTURES} in one run")
    located = replace(locate(str(place), pipeline=pipeline), unverified=unverified)
    located = with_loras(located, lora, partial=lora_partial)
    settings = choose_settings(located, size, steps)
    n_steps = settings.num_inference_steps if save_steps else 0
    album = Album(
        None if out is None else Path(out), wishes,
        overwrite=overwrite, resume=resume, steps=n_steps,
    )  # fmt: skip
    runner = open_runner(located, backend)
    require(LOOK, "run")
    painter = Painter(runner, settings, [Path(i) for i in images], save_steps)
    _require_whole(located)
    _warn_of_long(located, [p for p, _ in wishes], settings.max_sequence_length)
    at_rest = resident()
    check_memory(located, settings, at_rest, max_memory)
    facts = [describe(located, runner, p, s, settings, painter.hashes) for p, s in wishes]
    with album.opened():
        left = album.left(facts)
        stages = painter.paint(album, [(i, facts[i]) for i in left], progress)
    pictures = tuple(Picture(f, p, s) for (p, s), f in zip(wishes, album.files, strict=True))
    return Generated(pictures, runner.name, settings, at_rest, stages, len(wishes) - len(left))


class Painter:
    """A runner with settings and pictures to edit, and an album to fill."""

    def __init__(
        self, runner: Runner, settings: PictureSettings, images: Sequence[Path], save_steps: bool
    ) -> None:
        self.runner, self.settings, self.save_steps = runner, settings, save_steps
        self.references = [read_picture(i) for i in images]
        self.hashes = [fs.sha256_file(i)[1] for i in images]

    def paint(
        self, album: Album, wishes: Sequence[tuple[int, dict[str, Any]]], progress: Progress
    ) -> tuple[Stage, ...]:
        """Paint what is left. wishes: which picture, and what its file is to say."""

        def take(finished: Finished) -> None:
            index, facts = wishes[finished.index]
            if finished.guesses is not None:
                album.add_steps(index, [encode_png(g) for g in finished.guesses])
            album.add(index, encode_png(finished.pixels, texts(facts)), facts)

        if not wishes:
            album.write_index()
            return ()
        return paint_each(
            self.runner, [f["prompt"] for _, f in wishes], [f["seed"] for _, f in wishes],
            self.settings, take, images=self.references, progress=progress,
            guesses=self.save_steps,
        )  # fmt: skip


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
    pipeline: Pipeline,
    runner: Runner,
    prompt: str,
    seed: int,
    settings: PictureSettings,
    images: Sequence[str] = (),
) -> dict[str, Any]:
    """The model, prompt and settings of a picture, for its file. images: sha256 of each."""
    facts: dict[str, Any] = {
        "prompt": prompt, "seed": seed, **asdict(settings), "model": _model_name(pipeline),
        "runner": runner.name, "computes": runner.computes, "made_by": f"{TOOL} {__version__}",
    }  # fmt: skip
    if images:
        facts["images_sha256"] = list(images)
    if pipeline.loras:
        kept = {"name", "scale", "sha256", "config"}
        facts["lora"] = [lora_record(a).model_dump(include=kept) for a in pipeline.loras]
    pack = pipeline.pack
    if pack is None:
        return facts
    facts |= {"mode": pack.info.mode, "format": pack.format.name, "base": pack.info.base}
    if pack.manifest:
        path = pack.path.relative_to(pack.folder).as_posix()
        digest = next((f.sha256 for f in pack.manifest.files if f.path == path), None)
        facts |= {"source": pack.manifest.source.id, "weights_sha256": digest}
    return facts


def _model_name(pipeline: Pipeline) -> str:
    """A name or an id as it was given; of a path only the folder, or it would tell whose it is."""
    place = Path(pipeline.name)
    return place.resolve().name if place.exists() else pipeline.name
